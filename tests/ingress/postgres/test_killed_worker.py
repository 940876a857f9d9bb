"""`headrace run` is killed at random moments of a workload on PostgreSQL: the topic is the table in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from headrace.testing.sink_harness import wait_until
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.plan import make_plan
from tests.ingress.postgres.bank import Bank
from tests.ingress.test_two_workers import read_envelopes

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres")]

LONG = bool(os.environ.get("HEADRACE_LONG_FAULTS"))
KILLS = 10 if LONG else 2
STATEMENTS = 100_000 if LONG else 2_000
ROWS = 2_000
INGRESS = """kind: postgres-cdc
database: "${BANK_DATABASE}"
tables: {accounts: {topic: accounts}}
batch_rows_max: 300
heartbeat_interval_ms: 500
"""
CONTRACT = """topic: accounts
owner: bank
kind: change
key: id
fields: {id: long, owner: "string?", cents: long, note: "string?"}
"""


def work(url: str, statements: int, seed: int) -> None:
    """Single statements and whole transactions, some rolled back, one of them larger than a batch."""
    chance = random.Random(seed)
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(statements):
            key, other = chance.randrange(3_000), 10_000 + number
            statement = chance.choice(
                (
                    f"INSERT INTO accounts VALUES ({key}, 'i{number}', {number}) ON CONFLICT (id) DO NOTHING",
                    f"UPDATE accounts SET cents = {number} WHERE id = {key}",
                    f"DELETE FROM accounts WHERE id = {key}",
                    f"UPDATE accounts SET id = {other} WHERE id = {key}",
                    f"BEGIN; UPDATE accounts SET owner = 'r{number}' WHERE id < {key}; ROLLBACK",
                )
            )
            connection.execute(statement.encode())
            if number % 1_000 == 500:
                connection.execute(f"UPDATE accounts SET cents = -{number}".encode())


@contextmanager
def workspace(root: Path) -> Iterator[Any]:
    files = {"headrace.toml": 'name = "bank"\n', "contracts/accounts.yaml": CONTRACT, "ingress/bank.yaml": INGRESS}
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    loaded = load(root)
    with connect(loaded.file, loaded.contracts) as environment:
        apply_plan(make_plan(loaded, environment), loaded, environment)
        yield environment


@pytest.mark.slow
@pytest.mark.timeout(3_600 if LONG else 240)
def test_kills_at_random_moments(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the snapshot and in the stream: the replayed topic equals the table, and no change came twice."""
    folder = tmp_path / "bank"
    folder.mkdir()
    with closing(Bank(tmp_path, postgres_url)) as bank:
        bank.execute(f"INSERT INTO accounts SELECT n, 'o' || n, 0 FROM generate_series(1, {ROWS}) n")
        monkeypatch.setenv("BANK_DATABASE", bank.url)
        chance = random.Random(7)
        with workspace(folder) as environment:
            command = [sys.executable, "-m", "headrace.cli", "run"]
            worker = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            writer = threading.Thread(target=work, args=(bank.url, STATEMENTS, 7))
            try:
                for kill in range(KILLS):
                    seen = len(read_envelopes(environment, "accounts"))
                    wait_until(
                        lambda seen=seen: len(read_envelopes(environment, "accounts")) > seen,  # type: ignore[misc]
                        "the worker works",
                        60.0,
                    )
                    if kill == 0:
                        writer.start()
                    threading.Event().wait(chance.random())
                    worker.send_signal(signal.SIGKILL)
                    worker.wait()
                    worker = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
                writer.join()
                wait_until(lambda: replica(environment) == bank.source(), "the topic is the table", 90.0)
            finally:
                worker.send_signal(signal.SIGINT)
                worker.wait(30)
            rows = read_envelopes(environment, "accounts")
        places = [(each["op"], each["source"]["change_lsn"]) for each in rows if each["op"] != "r"]
        assert len(places) == len(set(places))
        read = [each["after"]["id"] for each in rows if each["op"] == "r"]
        assert len(read) == len(set(read))


def replica(environment: Any) -> dict[int, Any]:
    """What a reader of the topic makes of it: partitions hold whole keys."""
    found: dict[int, Any] = {}
    for each in read_envelopes(environment, "accounts"):
        if each["op"] == "d":
            found.pop(each["before"]["id"], None)
        else:
            found[each["after"]["id"]] = each["after"]
    return found
