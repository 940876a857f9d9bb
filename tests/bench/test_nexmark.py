"""Every Nexmark query gives DuckDB's answer, row for row, however its input is cut.

- Tables are compared in their final state, streams as multisets.
- Queries that speak when a window closes get a tick at the end, long after all events: it closes every window of theirs
  and none of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bench.nexmark.answers import check_rows, expected_rows, standing_rows
from bench.nexmark.catalog import QUERIES, Query
from bench.nexmark.clock import EventClock
from bench.nexmark.events import CONTRACTS, Events, make_events, make_tick

from bench import runs
from headrace.contracts.contract import TopicKind
from headrace.contracts.polars_types import to_polars
from headrace.contracts.registry import Registry
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Log
from headrace.testing.driver import Driver

EVENTS = 5_000
DRIVER_EVENTS = 3_000
DAWN_MS = 1_777_618_780_000
"""2026-05-01 06:59:40: the night is over soon, and 8 o'clock is not reached."""
MIDNIGHT_MS = 1_777_679_980_000
"""2026-05-01 23:59:40."""
BEGINS_MS = {"q14": DAWN_MS - 3_600_000, "q17": MIDNIGHT_MS}
BATCHES = (100, 2_000)
"""Records of one poll."""


def small_events(query: Query, count: int = EVENTS) -> Events:
    """A hundred events a second: windows that close, auctions that expire, sessions that end."""
    return make_events(count, clock=EventClock(BEGINS_MS.get(query.name, DAWN_MS), events_per_second=100))


@dataclass
class Topics:
    """A log with events in its topics."""

    log: Log
    registry: Registry = field(default_factory=MemoryRegistry)

    def publish(self, events: Events) -> None:
        for topic, frame in events.by_topic().items():
            runs.publish(self.log, self.registry, CONTRACTS[topic], frame)

    def answer(self, query: Query, batch_records_max: int) -> pl.DataFrame:
        """What the query's topic says after a worker has read everything."""
        runs.make_topics_of(self.log, query.compiled)
        runs.work(self.log, self.registry, query.compiled, CONTRACTS, batch_records_max=batch_records_max)
        return standing_rows(query.result, runs.read_all(self.log, self.registry, query.result))


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[Topics]:
    """The topics of the events, empty, on an embedded log."""
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        runs.make_topics(log, CONTRACTS)
        yield Topics(log)


@pytest.mark.parametrize("name", QUERIES)
def test_a_worker_gives_the_right_answer(name: str, topics: Topics) -> None:
    """Over four partitions, in small and in large batches."""
    query = QUERIES[name]
    events = small_events(query)
    expected = expected_rows(query, events)
    assert expected.height, "the events have something to find"
    topics.publish(events)
    if query.needs_tick:
        topics.publish(make_tick(events))
    for batch_records_max in BATCHES:
        check_rows(topics.answer(query, batch_records_max), expected)


def in_order(events: Events) -> list[tuple[str, dict[str, Any], None]]:
    """Topic and row of every event, in the order of event numbers."""
    found: dict[int, tuple[str, dict[str, Any], None]] = {}
    begins = 0
    for (topic, frame), per_round in zip(events.by_topic().items(), (1, 3, 46), strict=True):
        for index, row in enumerate(frame.iter_rows(named=True)):
            found[index // per_round * 50 + begins + index % per_round] = (topic, row, None)
        begins += per_round
    return [found[number] for number in sorted(found)]


def cuts(total: int, seed: int) -> list[int]:
    """Sizes of batches, one row to hundreds, that cut so many rows."""
    generator = random.Random(seed)
    sizes: list[int] = []
    while (rest := total - sum(sizes)) > 0:
        sizes.append(min(rest, generator.choice((1, 3, 40, 400))))
    return sizes


@pytest.mark.parametrize("name", QUERIES)
def test_any_cut_gives_the_right_answer(name: str) -> None:
    """Events one after another as they happen, in batches of any size, over two partitions, with a restart between."""
    query = QUERIES[name]
    events = small_events(query, DRIVER_EVENTS)
    rows = in_order(events)
    tick = in_order(make_tick(events)) if query.needs_tick else []
    with Driver(query.pipeline, contracts=CONTRACTS, partitions=2) as driver:
        half = len(rows) // 2
        driver.publish_many(rows[:half], batches=cuts(half, seed=1))
        driver.restart()
        driver.publish_many(rows[half:], batches=cuts(len(rows) - half, seed=2))
        if tick:
            driver.publish_many(tick)
        topic = query.result.topic
        found = driver.table(topic).values() if query.result.kind is TopicKind.TABLE else driver.rows(topic)
        assert not driver.dead_letters()
    schema = to_polars(query.result.schema)
    check_rows(pl.DataFrame(list(found), schema=schema, orient="row"), expected_rows(query, events))


def test_a_wrong_answer_is_seen() -> None:
    """A row too few, a row twice, a value that differs in the last digit that counts."""
    query = QUERIES["q4"]
    expected = expected_rows(query, small_events(query))
    check_rows(expected.reverse(), expected)
    wrong = (
        expected.head(-1),
        pl.concat([expected, expected.head(1)]),
        expected.with_columns(pl.col("average") * (1 + 1e-10)),
        expected.with_columns(category=pl.col("category") + 1),
    )
    for rows in wrong:
        with pytest.raises(AssertionError):
            check_rows(rows, expected)


def test_of_a_table_the_last_rows_count() -> None:
    """Earlier rows of a key are replaced, and deleted keys are gone."""
    query = QUERIES["q17"]
    expected = expected_rows(query, small_events(query))
    rows = expected.with_columns(pl.lit(value=False).alias("__deleted"))
    older = rows.with_columns(total_bids=pl.col("total_bids") - 1)
    ghost = rows.head(1).with_columns(auction=pl.lit(-1, pl.Int64))
    gone = ghost.with_columns(pl.lit(value=True).alias("__deleted"))
    check_rows(standing_rows(query.result, pl.concat([older, ghost, rows, gone])), expected)


def test_equal_bids_rank_by_arrival() -> None:
    """The data of query 19 has ties inside and at the edge of the ten best, so that the rule is put to the test."""
    bids = small_events(QUERIES["q19"]).bids
    assert bids.select("auction", "price").is_duplicated().any()


def test_waiting_rows_never_stop_what_they_wait_for(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query 7 keeps bids until their windows' maxima come, more than may wait: reading on of bids stops, never that of
    the maxima, or nothing would move before the join's `max_wait` of a minute is over."""
    monkeypatch.setattr("headrace.engine.worker.INPUT_ROWS_MAX", 100)
    query = QUERIES["q7"]
    events = small_events(query)
    topics.publish(events)
    topics.publish(make_tick(events))
    began = time.monotonic()
    check_rows(topics.answer(query, 200), expected_rows(query, events))
    assert time.monotonic() - began < 30
