"""The capture of PostgreSQL as a process that can be killed, and a workload for it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import psycopg

from tests.ingress.killing import EVERYTHING_EVERY, KEYS, NEW_KEYS, ROOT, ROWS, STATEMENTS, Killed, Process
from tests.ingress.killing import kill_at_random_moments as kill
from tests.ingress.postgres.bank import Bank


def work(url: str, chance: random.Random) -> None:
    """Single statements and whole transactions, some rolled back, some larger than a batch."""
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(STATEMENTS):
            key, other = chance.randrange(KEYS), NEW_KEYS + number
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


def capture(bank: Bank, log_place: str) -> Process:
    """The process that captures."""
    # The server sends transactions of more than 64 kB while they are under way.
    url = f"{bank.url} options='-c logical_decoding_work_mem=64kB'"
    config = bank.config(batch_rows_max=300, snapshot_workers=2, database=url).model_dump(mode="json")
    return _child(bank, log_place, config)


def _child(bank: Bank, log_place: str, config: Mapping[str, Any]) -> Process:
    arguments = [log_place, bank.contract.topic, bank.database, json.dumps(config)]
    command = [sys.executable, "-m", "tests.ingress.postgres.capture_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def outbox_capture(bank: Bank, outbox: Mapping[str, Any]) -> Process:
    """The process that reads an outbox alone."""
    config = bank.config(batch_rows_max=25, tables={}, outbox=outbox).model_dump(mode="json")
    return _child(bank, str(bank.log_path), config)


def kill_at_random_moments(bank: Bank, log_place: str) -> Killed:
    """kill -9 in the snapshot and in the stream, then wait until the slot was told that everything is in the log."""
    bank.execute(f"INSERT INTO accounts SELECT n, 'o' || n, 0 FROM generate_series(1, {ROWS}) n")
    bank.cdc()

    def is_done() -> bool:
        return (slot := bank.slot()) is not None and slot.confirmed_lsn >= end(bank)

    return kill(bank, lambda: capture(bank, log_place), lambda chance: work(bank.url, chance), is_done)


def end(bank: Bank) -> int:
    """Where the server's log ends now."""
    query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    (found,) = bank.connection.execute(query).fetchone() or (0,)
    return int(found)
