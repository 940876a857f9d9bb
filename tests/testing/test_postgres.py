"""The project's own PostgreSQL: it starts ready for logical replication, keeps its data, and dies with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from headrace.testing.kafka_service import is_required
from headrace.testing.postgres import find_postgres, main, missing_programs, running_postgres, stop_postgres
from headrace.testing.sink_harness import wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres")]

OWNER = """
import sys
from headrace.testing.postgres import running_postgres
with running_postgres() as server:
    print(server.pid, server.directory, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _programs() -> None:
    reason = missing_programs()
    if reason and not is_required():
        pytest.skip(reason)


def test_data_stays_in_a_directory_of_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command starts and stops it, a kill -9 in between loses no commit, and it can be replicated from."""
    home = tmp_path / "postgres"
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    assert main(["start", "--directory", str(home)]) == 0
    url = capsys.readouterr().out.strip()
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        connection.execute("CHECKPOINT")
    assert stop_postgres(home, hard=True)
    assert main(["start", "--directory", str(home)]) == 0
    with psycopg.connect(capsys.readouterr().out.strip(), autocommit=True) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    assert main(["status", "--directory", str(home)]) == 0
    assert main(["stop", "--directory", str(home)]) == 0
    assert find_postgres(home) is None
    assert home.is_dir()


def test_it_dies_with_its_owner() -> None:
    """The owner is killed without a chance to tidy up: the server goes."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, directory = owner.stdout.readline().split()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() and find_postgres(Path(directory)) is None, "the server's end")
    stop_postgres(Path(directory))


def test_a_temporary_one_leaves_nothing() -> None:
    """Its directory goes with it."""
    with running_postgres() as server:
        assert os.path.isdir(server.directory)
    assert not os.path.isdir(server.directory)
