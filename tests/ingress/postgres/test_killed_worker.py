"""The process that captures is killed at random moments of a workload: the topic is the table in the end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from tests.ingress.postgres.bank import Bank

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres")]

LONG = bool(os.environ.get("HEADRACE_LONG_FAULTS"))
KILLS = 10 if LONG else 3
STATEMENTS = 100_000 if LONG else 3_000
ROWS = 2_000
DEADLINE_S = 90.0
ROOT = Path(__file__).parents[3]


def work(url: str, seed: int) -> None:
    """Single statements and whole transactions, some rolled back, some larger than a batch."""
    chance = random.Random(seed)
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(STATEMENTS):
            key, other = chance.randrange(3_000), 10_000 + number
            statements = (
                f"INSERT INTO accounts VALUES ({key}, 'i{number}', {number}) ON CONFLICT (id) DO NOTHING",
                f"UPDATE accounts SET cents = {number} WHERE id = {key}",
                f"DELETE FROM accounts WHERE id = {key}",
                f"UPDATE accounts SET id = {other} WHERE id = {key}",
                f"BEGIN; UPDATE accounts SET owner = 'r{number}' WHERE id = {key}; ROLLBACK",
            )
            connection.execute(chance.choice(statements).encode())
            if number % 1_000 == 500:
                connection.execute(f"UPDATE accounts SET cents = -{number}".encode())


def capture(bank: Bank) -> subprocess.Popen[bytes]:
    config = bank.config(batch_rows_max=300, snapshot_workers=2).model_dump(mode="json")
    arguments = [str(bank.log_path), bank.database, json.dumps(config)]
    command = [sys.executable, "-m", "tests.ingress.postgres.capture_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(3_600 if LONG else 300)
def test_kills_at_random_moments(bank: Bank) -> None:
    """kill -9 in the snapshot and in the stream: the replayed topic equals the table, and no change came twice, rows of
    the snapshot among them."""
    bank.execute(f"INSERT INTO accounts SELECT n, 'o' || n, 0 FROM generate_series(1, {ROWS}) n")
    bank.cdc()
    chance = random.Random(7)
    writer = threading.Thread(target=work, args=(bank.url, 7))
    child = capture(bank)
    try:
        for kill in range(KILLS):
            await_more(bank, len(bank.changes()), writer)
            if kill == 0:
                writer.start()
            time.sleep(chance.random() * 0.5)
            child.kill()
            child.wait()
            child = capture(bank)
        writer.join()
        deadline = time.monotonic() + DEADLINE_S
        source = bank.source()
        while bank.replica() != source:
            assert time.monotonic() < deadline, "the topic is not the table"
            time.sleep(0.2)
    finally:
        child.kill()
        child.wait()
    streamed = [(each["op"], each["source"]["change_lsn"]) for each in bank.envelopes() if each["op"] != "r"]
    assert len(streamed) == len(set(streamed))
    read = [(row or {})["id"] for operation, _, row in bank.told() if operation == "r"]
    assert len(read) == len(set(read))


def await_more(bank: Bank, seen: int, writer: threading.Thread) -> None:
    """Until the process has published something, or there is nothing left that it could."""
    deadline = time.monotonic() + DEADLINE_S
    while len(bank.changes()) == seen and (writer.ident is None or writer.is_alive()):
        assert time.monotonic() < deadline, "the process publishes nothing"
        time.sleep(0.05)
