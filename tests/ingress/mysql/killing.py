"""The capture of MariaDB as a process that can be killed, and a workload for it."""

from __future__ import annotations

import json
import random
import subprocess
import sys

from headrace.ingress.cdc.mysql.connection import connect, rows
from tests.ingress.killing import EVERYTHING_EVERY, KEYS, NEW_KEYS, ROOT, ROWS, STATEMENTS, Killed, Process
from tests.ingress.killing import kill_at_random_moments as kill
from tests.ingress.mysql.till import Till, numbers


def work(till: Till, chance: random.Random) -> None:
    """Single statements and whole transactions, some rolled back, some larger than a batch."""
    connection = connect(till.url)
    rows(connection, f"USE {till.database}")
    for number in range(STATEMENTS):
        key, other = chance.randrange(KEYS), NEW_KEYS + number
        statements = (
            (f"INSERT INTO accounts VALUES ({key}, 'i{number}', {number}, NULL) ON DUPLICATE KEY UPDATE note = 'n'",),
            (f"UPDATE accounts SET cents = {number} WHERE id = {key}",),
            (f"DELETE FROM accounts WHERE id = {key}",),
            (f"UPDATE accounts SET id = {other} WHERE id = {key} AND id % 10 = 0",),
            ("BEGIN", f"UPDATE accounts SET owner = 'r{number}' WHERE id = {key}", "ROLLBACK"),
        )
        for statement in chance.choices(statements, (6, 6, 2, 1, 1))[0]:
            rows(connection, statement)
        if number % EVERYTHING_EVERY == EVERYTHING_EVERY // 2:
            everything = f"UPDATE accounts SET cents = -{number} WHERE id < {KEYS}"
            part = f"UPDATE accounts SET owner = 'part' WHERE id < {KEYS}"
            for statement in ("BEGIN", "SAVEPOINT part", part, "ROLLBACK TO SAVEPOINT part", everything, "COMMIT"):
                rows(connection, statement)
            for statement in ("BEGIN", everything, "ROLLBACK", "FLUSH BINARY LOGS"):
                rows(connection, statement)
    connection.close()


def capture(till: Till, log_place: str) -> Process:
    """The process that captures."""
    config = till.config(batch_rows_max=300).model_dump(mode="json")
    arguments = [log_place, till.contract.topic, till.database, json.dumps(config)]
    command = [sys.executable, "-m", "tests.ingress.mysql.capture_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def kill_at_random_moments(till: Till, log_place: str) -> Killed:
    """kill -9 in the snapshot and in the stream, then wait until the position in the log is behind everything."""
    till.execute(f"INSERT INTO accounts SELECT seq, concat('o', seq), 0, NULL FROM {numbers(ROWS)}")
    till.cdc()
    reader = till.cdc(setup=False)

    def is_done() -> bool:
        position = reader.position
        return position is not None and not position.open_snapshots and position.place >= till.end()

    return kill(till, lambda: capture(till, log_place), lambda chance: work(till, chance), is_done)
