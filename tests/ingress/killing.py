"""A capture that is killed at random moments of a workload, and the verdict over what it left in its topic.

Owns what the tests of every database share, on the embedded log and on Kafka.

- A kill comes when the topic has so many records, at random: the first ones in the snapshot, the others spread over all
  that the workload gives. What the writer has done by then does not matter.
- `HEADRACE_LONG_FAULTS` makes it ten kills over 100,000 changes.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.contracts.contract import Contract
from headrace.demo.replay import records_in
from headrace.log.port import Log

LONG = bool(os.environ.get("HEADRACE_LONG_FAULTS"))
SNAPSHOT_KILLS, STREAM_KILLS = (3, 7) if LONG else (1, 2)
STATEMENTS = 130_000 if LONG else 3_000
CHANGES_MIN = 100_000 if LONG else 2_000
"""What the statements change at least: some hit no row, some are rolled back."""
ROWS = 40_000 if LONG else 6_000
KEYS = 3_000
"""Those that statements hit. A changed key goes behind `NEW_KEYS`, so that its row is not hit again."""
NEW_KEYS = 1_000_000
EVERYTHING_EVERY = 10_000 if LONG else 1_000
"""Statements between two transactions that are larger than a batch."""
PAUSE_S_MAX = 0.1
"""Between the look at the topic and a kill in the stream, so that not all come right behind a commit."""
DEADLINE_S = 240.0 if LONG else 90.0
SEED = 7
ROOT = Path(__file__).parents[2]

Process = subprocess.Popen[bytes]


class Source(Protocol):
    """A database that is captured, and its topic."""

    log: Log
    contract: Contract

    def envelopes(self) -> list[dict[str, Any]]: ...
    def replica(self) -> dict[Any, dict[str, Any]]: ...
    def source(self) -> dict[Any, dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Killed:
    """What the topic had in it at each kill, and how long all of it took."""

    records_at_kills: list[int]
    seconds: float


def kill_at_random_moments(
    source: Source, capture: Callable[[], Process], work: Callable[[random.Random], None], is_done: Callable[[], bool]
) -> Killed:
    """kill -9 in the snapshot and in the stream, then wait until the topic has everything.

    `capture` starts the process, `work` is the workload, and `is_done` tells, after it, whether all of it is captured.
    """
    chance = random.Random(SEED)
    writer = threading.Thread(target=work, args=(random.Random(SEED),))
    moments = sorted(chance.randrange(1, ROWS // 2) for _ in range(SNAPSHOT_KILLS))
    # Deletions have tombstones, and transactions of Kafka their marks: there are more records than these.
    moments += sorted(ROWS + chance.randrange(CHANGES_MIN) for _ in range(STREAM_KILLS))
    began_s, found, child = time.monotonic(), [], capture()
    try:
        for moment in moments:
            _await_records(source, moment, child, lambda: bool(writer.ident) and not writer.is_alive() and is_done())
            if writer.ident is None:
                writer.start()
            if moment >= ROWS:
                time.sleep(chance.random() * PAUSE_S_MAX)
            child.kill()
            child.wait()
            found.append(records_in(source.log, source.contract.topic))
            child = capture()
        writer.join()
        await_true(is_done, child, "the process does not come to the end")
    finally:
        child.kill()
        child.wait()
        if writer.ident is not None:
            writer.join()
    return Killed(found, time.monotonic() - began_s)


def check_verdict(source: Source, killed: Killed, report: Callable[[str, object], None]) -> None:
    """The replayed topic is the table, no change is there twice, and changes are in the order of their commits.

    `report` is pytest's `record_property`.
    """
    envelopes = source.envelopes()
    rows = source.source()
    assert source.replica() == rows
    # A changed key is a deletion and an insert at one place.
    streamed = [(each["source"]["change_lsn"], each["op"]) for each in envelopes if each["op"] != "r"]
    assert [change for change, count in Counter(streamed).items() if count > 1] == []
    places = [place for place, _ in streamed]
    assert places == sorted(places)
    read = Counter(each["after"]["id"] for each in envelopes if each["op"] == "r")
    assert [key for key, count in read.items() if count > 1] == []
    assert len(read) > ROWS // 2
    assert len(streamed) >= CHANGES_MIN
    assert len(killed.records_at_kills) == SNAPSHOT_KILLS + STREAM_KILLS
    if LONG:
        # The few rows of the short form may be there before the kill is.
        assert killed.records_at_kills[0] < ROWS, "no kill was in the snapshot"
    report("kills", len(killed.records_at_kills))
    report("records_at_kills", killed.records_at_kills)
    report("seconds", round(killed.seconds, 1))
    report("rows_of_the_snapshot", len(read))
    report("changes", len(streamed))
    report("records", len(source.changes()))
    report("rows_of_the_table", len(rows))


def await_true(condition: Callable[[], bool], child: Process, otherwise: str) -> None:
    """While the process lives, until its deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert child.poll() is None, "the process ended by itself"
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def _await_records(source: Source, moment: int, child: Process, is_over: Callable[[], bool]) -> None:
    """Until the topic has so many records, and this process put some there, unless nothing is left to put."""
    before = records_in(source.log, source.contract.topic)

    def there() -> bool:
        now = records_in(source.log, source.contract.topic)
        return now >= moment and (now > before or is_over())

    await_true(there, child, f"the process does not come to record {moment}")
