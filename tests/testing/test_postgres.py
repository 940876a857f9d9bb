"""The project's own PostgreSQL: it starts ready for logical replication, keeps its data, and dies with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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

STARTING = """
import sys
from pathlib import Path
from headrace.testing.postgres import POSTGRES

def answers(port):
    print("waiting", flush=True)
    sys.stdin.readline()

POSTGRES.answers = answers
with POSTGRES.running(Path(sys.argv[1])):
    pass
"""


@pytest.fixture(autouse=True)
def _programs() -> None:
    reason = missing_programs()
    if reason and not is_required():
        pytest.skip(reason)


@pytest.fixture
def home() -> Iterator[Path]:
    """In a folder that every user may enter, unlike those of pytest: the server of a root has another one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "postgres"


def test_data_stays_in_a_directory_of_the_users(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command starts and stops it, a kill -9 in between loses no commit, and it can be replicated from."""
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


def test_it_dies_with_an_owner_that_waits_for_it(home: Path) -> None:
    """Killed while the server starts, before anybody could write down what runs."""
    command = [sys.executable, "-c", STARTING, str(home)]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "waiting\n"
    file = home / "data" / "postmaster.pid"
    wait_until(lambda: file.exists() and bool(file.read_text().split()), "the server's own file")
    pid = file.read_text().split()[0]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the server's end")


def test_a_temporary_one_leaves_nothing() -> None:
    """Its directory goes with it."""
    with running_postgres() as server:
        assert os.path.isdir(server.directory)
    assert not os.path.isdir(server.directory)
