"""A capture that is killed at random moments of a workload, and the verdict over what it left in its topic.

Owns what the tests on the embedded log and on Kafka share.

- `HEADRACE_LONG_FAULTS` makes it ten kills over 100,000 changes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from headrace.demo.replay import records_in
from tests.ingress.postgres.bank import Bank

LONG = bool(os.environ.get("HEADRACE_LONG_FAULTS"))
KILLS = 10 if LONG else 3
STATEMENTS = 100_000 if LONG else 3_000
ROWS = 2_000
KEYS = 3_000
"""Those that statements hit. A changed key goes behind 10,000, so that its row is not hit again."""
EVERYTHING_EVERY = 10_000 if LONG else 1_000
"""Statements between two transactions that are larger than a batch."""
PAUSE_S_MAX = 4.0 if LONG else 0.5
DEADLINE_S = 240.0 if LONG else 90.0
ROOT = Path(__file__).parents[3]


def work(url: str, seed: int) -> None:
    """Single statements and whole transactions, some rolled back, some larger than a batch."""
    chance = random.Random(seed)
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(STATEMENTS):
            key, other = chance.randrange(KEYS), 10_000 + number
            statements = (
                f"INSERT INTO accounts VALUES ({key}, 'i{number}', {number}) ON CONFLICT (id) DO UPDATE SET note = 'n'",
                f"UPDATE accounts SET cents = {number} WHERE id = {key}",
                f"DELETE FROM accounts WHERE id = {key}",
                f"UPDATE accounts SET id = {other} WHERE id = {key} AND id % 10 = 0",
                f"BEGIN; UPDATE accounts SET owner = 'r{number}' WHERE id = {key}; ROLLBACK",
            )
            connection.execute(chance.choices(statements, (6, 6, 2, 1, 1))[0].encode())
            if number % EVERYTHING_EVERY == EVERYTHING_EVERY // 2:
                everything = f"UPDATE accounts SET cents = -{number} WHERE id < {KEYS}"
                part = (
                    f"SAVEPOINT part; UPDATE accounts SET owner = 'part' WHERE id < {KEYS}; ROLLBACK TO SAVEPOINT part"
                )
                connection.execute(f"BEGIN; {part}; {everything}; COMMIT".encode())
                connection.execute(f"BEGIN; {everything}; ROLLBACK".encode())


def capture(bank: Bank, log_place: str) -> subprocess.Popen[bytes]:
    """The process that captures."""
    # The server sends transactions of more than 64 kB while they are under way.
    url = f"{bank.url} options='-c logical_decoding_work_mem=64kB'"
    config = bank.config(batch_rows_max=300, snapshot_workers=2, database=url).model_dump(mode="json")
    return _child(bank, log_place, config)


def _child(bank: Bank, log_place: str, config: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    arguments = [log_place, bank.contract.topic, bank.database, json.dumps(config)]
    command = [sys.executable, "-m", "tests.ingress.postgres.capture_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def outbox_capture(bank: Bank, outbox: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """The process that reads an outbox alone."""
    config = bank.config(batch_rows_max=25, tables={}, outbox=outbox).model_dump(mode="json")
    return _child(bank, str(bank.log_path), config)


def kill_at_random_moments(bank: Bank, log_place: str) -> None:
    """kill -9 in the snapshot and in the stream, then wait until the topic has everything."""
    bank.execute(f"INSERT INTO accounts SELECT n, 'o' || n, 0 FROM generate_series(1, {ROWS}) n")
    bank.cdc()
    chance = random.Random(7)
    writer = threading.Thread(target=work, args=(bank.url, 7))
    child = capture(bank, log_place)
    try:
        for kill in range(KILLS):
            await_more(bank, child, writer)
            if kill == 0:
                writer.start()
            time.sleep(chance.random() * PAUSE_S_MAX)
            child.kill()
            child.wait()
            child = capture(bank, log_place)
        writer.join()
        _await_end(bank, child)
    finally:
        child.kill()
        child.wait()
        if writer.ident is not None:
            writer.join()


def check_verdict(bank: Bank) -> None:
    """The replayed topic is the table, no change is there twice, and changes are in the order of their commits."""
    envelopes = bank.envelopes()
    assert bank.replica() == bank.source()
    streamed = [(each["source"]["change_lsn"], each["op"]) for each in envelopes if each["op"] != "r"]
    assert [change for change, count in Counter(streamed).items() if count > 1] == []
    places = [change for change, _ in streamed]
    assert places == sorted(places)
    read = Counter(each["after"]["id"] for each in envelopes if each["op"] == "r")
    assert [key for key, count in read.items() if count > 1] == []
    assert len(read) > 0
    if LONG:
        assert len(streamed) > 70_000


def await_more(bank: Bank, child: subprocess.Popen[bytes], writer: threading.Thread) -> None:
    """Until the process has published something, or there is nothing left that it could."""
    seen, deadline = records_in(bank.log, bank.contract.topic), time.monotonic() + DEADLINE_S
    while records_in(bank.log, bank.contract.topic) == seen and (writer.ident is None or writer.is_alive()):
        assert child.poll() is None, "the process ended by itself"
        assert time.monotonic() < deadline, "the process publishes nothing"
        time.sleep(0.05)


def _await_end(bank: Bank, child: subprocess.Popen[bytes]) -> None:
    """Until the slot was told that everything is in the log."""
    query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    (end,) = bank.connection.execute(query).fetchone() or (0,)
    deadline = time.monotonic() + DEADLINE_S
    while (slot := bank.slot()) is None or slot.confirmed_lsn < end:
        assert child.poll() is None, "the process ended by itself"
        assert time.monotonic() < deadline, "the process does not come to the end"
        time.sleep(0.1)
