"""A capture that is killed at random moments of a workload.

Owns what the tests on the embedded log and on Kafka share; the verdict over the topic is that of PostgreSQL's.

- `HEADRACE_LONG_FAULTS` makes it ten kills over 100,000 changes.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time

from headrace.ingress.cdc.mysql.connection import connect, rows
from tests.ingress.mysql.till import Till
from tests.ingress.postgres.killing import (
    DEADLINE_S,
    EVERYTHING_EVERY,
    KEYS,
    KILLS,
    PAUSE_S_MAX,
    ROOT,
    ROWS,
    STATEMENTS,
    await_more,
)


def work(till: Till, seed: int) -> None:
    """Single statements and whole transactions, some rolled back, some larger than a batch."""
    chance = random.Random(seed)
    connection = connect(till.url)
    rows(connection, f"USE {till.database}")
    for number in range(STATEMENTS):
        key, other = chance.randrange(KEYS), 10_000 + number
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


def capture(till: Till, log_place: str) -> subprocess.Popen[bytes]:
    """The process that captures."""
    config = till.config(batch_rows_max=300).model_dump(mode="json")
    arguments = [log_place, till.contract.topic, till.database, json.dumps(config)]
    command = [sys.executable, "-m", "tests.ingress.mysql.capture_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def kill_at_random_moments(till: Till, log_place: str) -> None:
    """kill -9 in the snapshot and in the stream, then wait until the topic has everything."""
    till.execute(f"INSERT INTO accounts SELECT seq, concat('o', seq), 0, NULL FROM seq_1_to_{ROWS}")
    till.cdc()
    chance = random.Random(7)
    writer = threading.Thread(target=work, args=(till, 7))
    child = capture(till, log_place)
    try:
        for kill in range(KILLS):
            await_more(till, child, writer)
            if kill == 0:
                writer.start()
            time.sleep(chance.random() * PAUSE_S_MAX)
            child.kill()
            child.wait()
            child = capture(till, log_place)
        writer.join()
        _await_end(till, child)
    finally:
        child.kill()
        child.wait()
        if writer.ident is not None:
            writer.join()


def _await_end(till: Till, child: subprocess.Popen[bytes]) -> None:
    """Until the position in the log is behind everything."""
    end, reader, deadline = till.end(), till.cdc(setup=False), time.monotonic() + DEADLINE_S
    while (position := reader.position) is None or position.open_snapshots or position.place < end:
        assert child.poll() is None, "the process ended by itself"
        assert time.monotonic() < deadline, "the process does not come to the end"
        time.sleep(0.1)
