"""The Nexmark benchmark: every query over topics that are already full.

Owns the measurement and its report. Every answer is checked against DuckDB, row for row.

- Events are published once to each log. Queries that wait for their windows to close run last, after a tick.
- A query is charged with the records of the topics that it reads, not with events it never sees.
- `runs` says what is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import polars as pl

from bench import runs
from bench.nexmark.answers import check_rows, expected_rows, standing_rows
from bench.nexmark.catalog import QUERIES, Query
from bench.nexmark.clock import EVENTS_PER_SECOND, EventClock
from bench.nexmark.events import CONTRACTS, Events, make_events, make_tick
from headrace.contracts.registry import Registry
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.log.port import Log

EVENTS = 200_000
WRONG_CHARACTERS_MAX = 2_000
"""Of a difference that is shown."""


@dataclass(frozen=True)
class Row:
    """One measured run."""

    query: str
    log: str
    round: int
    events: int
    """Of all kinds, as generated."""
    records: int
    """In the topics that the query reads."""
    seconds: float
    cpu_seconds: float
    records_per_second: float
    records_per_cpu_second: float
    output_rows: int
    correct: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=EVENTS, help="people, auctions and bids together; %(default)s")
    parser.add_argument("--events-per-second", type=int, default=EVENTS_PER_SECOND, help="of event time")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--queries", default=",".join(QUERIES), help="names, separated by commas")
    parser.add_argument("--logs", default="embedded", help="embedded, kafka or both, separated by a comma")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """All queries on each log in turn; 1 when an answer was wrong."""
    names = arguments.queries.split(",")
    unknown = [name for name in names if name not in QUERIES]
    if unknown:
        sys.exit(f"unknown query {unknown[0]!r}: one of {', '.join(QUERIES)}")
    events = make_events(arguments.events, clock=EventClock(events_per_second=arguments.events_per_second))
    expected = {name: expected_rows(QUERIES[name], events) for name in names}
    rows = []
    for log_name in arguments.logs.split(","):
        with runs.open_log(log_name) as log:
            bench = _Bench(log_name, log, events)
            for query, number in _order(names, arguments.rounds):
                row = bench.measure(query, expected[query.name], number)
                rows.append(row)
                print(json.dumps(asdict(row)) if arguments.json else _line(row), flush=True)
    return 0 if all(row.correct for row in rows) else 1


def _order(names: list[str], rounds: int) -> list[tuple[Query, int]]:
    """Queries and rounds, those first that must not see a tick."""
    queries = [(QUERIES[name], number) for number in range(rounds) for name in names]
    return sorted(queries, key=lambda each: each[0].needs_tick)


class _Bench:
    """One log with the events in it."""

    def __init__(self, name: str, log: Log, events: Events) -> None:
        self._name, self._log, self._events = name, log, events
        self._registry: Registry = MemoryRegistry()
        self._count = sum(frame.height for frame in events.by_topic().values())
        runs.make_topics(log, CONTRACTS)
        self._publish(events)
        self._has_tick = False

    def _publish(self, events: Events) -> None:
        for topic, frame in events.by_topic().items():
            runs.publish(self._log, self._registry, CONTRACTS[topic], frame)

    def measure(self, query: Query, expected: pl.DataFrame, number: int) -> Row:
        """Run a query, and check what it wrote."""
        if query.needs_tick and not self._has_tick:
            self._publish(make_tick(self._events))
            self._has_tick = True
        assert query.needs_tick == self._has_tick
        sources = query.compiled.plan.source_topics()
        runs.make_topics_of(self._log, query.compiled)
        used = runs.work(self._log, self._registry, query.compiled, CONTRACTS)
        records = sum(self._events.by_topic()[topic].height for topic in sources)
        found = runs.read_all(self._log, self._registry, query.result)
        return Row(
            query=query.name,
            log=self._name,
            round=number,
            events=self._count,
            records=records,
            seconds=round(used.seconds, 3),
            cpu_seconds=round(used.cpu_seconds, 3),
            records_per_second=round(records / used.seconds),
            records_per_cpu_second=round(records / used.cpu_seconds),
            output_rows=found.height,
            correct=_is_right(query, found, expected),
        )


def _is_right(query: Query, found: pl.DataFrame, expected: pl.DataFrame) -> bool:
    try:
        check_rows(standing_rows(query.result, found), expected)
    except AssertionError as error:
        print(f"{query.name}: {str(error)[:WRONG_CHARACTERS_MAX]}", file=sys.stderr)
        return False
    return True


def _line(row: Row) -> str:
    verdict = "right" if row.correct else "WRONG"
    return (
        f"{row.query:4} {row.log:9} {row.records_per_cpu_second:9,.0f}/CPU-s {row.records_per_second:9,.0f}/s"
        f" {row.seconds:7.2f} s {row.output_rows:10,} rows out  {verdict}"
    )
