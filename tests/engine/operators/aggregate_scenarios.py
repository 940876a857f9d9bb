"""Random lives of an aggregate step: rows, batch cuts, commits, aborts, restores, moves; and how to play them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from hypothesis import strategies as st

from headrace.engine.operator import DELETED, PARTITION, STREAM_TIME, TIME
from headrace.flow.aggregator import Aggregator
from headrace.flow.steps import AggregateColumn, AggregateStep
from headrace.flow.values import Emit, Window
from tests.engine.operators.aggregate_driver import (
    END,
    Driver,
    aggregate,
    comparable,
    hopping,
    make_step,
    result_rows,
    session,
    sliding,
    tumbling,
)
from tests.engine.reference import RAISES, Reference, Result, Row, canonical

COLUMNS: dict[str, pl.DataType] = {
    "carrier": pl.String(),
    "gate": pl.Float64(),
    "seats": pl.Int64(),
    "miles": pl.Int64(),
    "delay": pl.Float64(),
    "plane": pl.String(),
    "fare": pl.Decimal(12, 2),
    "weight": pl.Decimal(38, 2),
}
PARTITIONS = (0, 1)
AGGREGATES_MAX = 5
"""Aggregates of one example: an example with all of them takes ten times as long."""


class Trail(Aggregator):
    """All values as text, in order; raises at one of them."""

    type = "string"

    def init(self) -> str:
        return ""

    def add(self, state: str, value: str | None) -> str:
        if value == RAISES:
            raise ValueError("no such plane")
        return f"{state}{value};"

    def merge(self, left: str, right: str) -> str:
        return left + right

    def result(self, state: str) -> str:
        return state


def _aggregates() -> list[AggregateColumn]:
    def make(name: str, function: str, column: str | None, **options: Any) -> AggregateColumn:
        return aggregate(name, function, column, COLUMNS, **options)

    return [
        make("rows", "count", None),
        make("delays", "count", "delay"),
        make("sum_seats", "sum", "seats"),
        make("sum_miles", "sum", "miles"),
        make("sum_delay", "sum", "delay"),
        make("sum_fare", "sum", "fare"),
        make("sum_weight", "sum", "weight"),
        make("mean_seats", "mean", "seats"),
        make("mean_miles", "mean", "miles"),
        make("mean_delay", "mean", "delay"),
        make("mean_weight", "mean", "weight"),
        make("min_delay", "min", "delay"),
        make("max_delay", "max", "delay"),
        make("min_plane", "min", "plane"),
        make("max_fare", "max", "fare"),
        make("max_miles", "max", "miles"),
        make("first_plane", "first", "plane"),
        make("first_delay", "first", "delay"),
        make("last_seats", "last", "seats"),
        make("last_fare", "last", "fare"),
        make("var_seats", "var", "seats"),
        make("std_delay", "std", "delay"),
        make("planes", "count_distinct", "plane"),
        make("different_delays", "count_distinct", "delay"),
        make("median_delay", "quantile", "delay", q=0.5),
        make("p90_seats", "quantile", "seats", q=0.9),
        make("about_delay", "quantile", "delay", q=0.5, accuracy=0.01),
        make("about_seats", "quantile", "seats", q=0.25, accuracy=0.05),
        make("top_fares", "top_k", "fare", k=2),
        make("top_delays", "top_k", "delay", k=3),
        make("some_planes", "collect", "plane", limit=3),
        make("trail", "custom", "plane", type=["null", "string"]),
    ]


AGGREGATES = _aggregates()
ROUNDED = {"var_seats": 1e-12, "std_delay": 1e-12, "mean_miles": 1e-15, "mean_weight": 1e-15}
"""Results that may differ from the exact ones by this share: they are rounded more than once."""
SKETCHED = {"about_delay": 0.01, "about_seats": 0.05}
WINDOWS: dict[str, Window | None] = {
    "tumbling": tumbling(10),
    "tumbling_grace": tumbling(10, 7),
    "hopping": hopping(10, 4, 3),
    "session": session(5),
    "session_grace": session(4, 9),
    "sliding": sliding(7),
    "sliding_grace": sliding(5, 8),
    "none": None,
}
GROUPS = (("carrier", "gate"), ("carrier",), ())
EVENTS = ("cut", "commit", "abort", "abort_flushed", "restore", "snapshot", "move", "idle")


@dataclass(frozen=True)
class Scenario:
    """Rows, and what happens between them: `events[i]` before row i."""

    rows: list[Row]
    closing: list[dict[int, int]]
    """Closing times after each row."""
    events: dict[int, str]
    aggregates: list[AggregateColumn]
    group: tuple[str, ...]

    @property
    def idle(self) -> dict[int, str]:
        """The events that belong to the input; all others must not show in the results."""
        return {at: kind for at, kind in self.events.items() if kind == "idle"}

    def step(self, window: Window | None, emit: Emit) -> AggregateStep:
        """The step that this is a life of."""
        return make_step(self.group, window, self.aggregates, COLUMNS, emit)

    def driver(self, window: Window | None, emit: Emit) -> Driver:
        """That step at work."""
        functions = {f"totals.{each.name}": Trail("plane") for each in self.aggregates if each.function == "custom"}
        return Driver(self.step(window, emit), COLUMNS, functions)


_MANY = 10**35
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "carrier": st.sampled_from([None, "AA", "a much longer carrier name"]),
    "gate": st.sampled_from([None, 0.0, -0.0, math.nan]),
    "seats": st.one_of(st.none(), st.integers(-50, 50)),
    "miles": st.sampled_from([None, 1, -1, 2**61, -(2**61), 2**62, 2**63 - 1, -(2**63)]),
    "delay": st.one_of(
        st.none(),
        st.floats(-1e6, 1e6, allow_subnormal=False),
        st.sampled_from([0.1, 0.2, -0.0, 1e15, -1e15, math.nan, math.inf, -math.inf]),
    ),
    "plane": st.sampled_from([None, "N1", "N2", "a long tail number, not inlined", RAISES]),
    "fare": st.one_of(st.none(), st.decimals(-10_000, 10_000, places=2)),
    "weight": st.one_of(st.none(), st.decimals(-9 * _MANY, 9 * _MANY, places=2)),
}


def values_of(columns: set[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Values of these columns; the others are null."""
    return st.fixed_dictionaries({name: _VALUES[name] if name in columns else st.none() for name in COLUMNS})


def _name(aggregate: AggregateColumn) -> str:
    return aggregate.name


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Rows of two partitions, each fed by two origins with clocks of their own."""
    count = draw(st.integers(1, 30))
    aggregates = draw(st.lists(st.sampled_from(AGGREGATES), min_size=1, max_size=AGGREGATES_MAX, unique_by=_name))
    group = draw(st.sampled_from(GROUPS))
    values = values_of({*group, *(each.column for each in aggregates if each.column is not None)})
    clocks = {(partition, origin): 0 for partition in PARTITIONS for origin in (0, 1)}
    rows, closing = [], []
    now = 0
    for _ in range(count):
        partition, origin = draw(st.sampled_from(list(clocks)))
        now += draw(st.integers(0, 6))
        time_ms = max(0, now - draw(st.sampled_from([0, 0, 0, 1, 3, 8, 20])))
        clocks[partition, origin] = max(clocks[partition, origin], time_ms)
        rows.append(Row(partition, time_ms, clocks[partition, origin], draw(values)))
        closing.append({p: min(clocks[p, 0], clocks[p, 1]) for p in PARTITIONS})
    events = draw(st.dictionaries(st.integers(1, count), st.sampled_from(EVENTS), max_size=8))
    return Scenario(rows, closing, events, aggregates, group)


@dataclass
class Played:
    """What came out."""

    finals: list[tuple[Any, ...]] = field(default_factory=list)
    """Rows of closed windows, committed."""
    table: dict[Any, Any] = field(default_factory=dict)
    """What the updates amount to."""


def play(driver: Driver, scenario: Scenario, events: Mapping[int, str], *, close: bool = True) -> Played:
    """Live through the scenario with these events instead of its own; at the end close what is still open."""
    return _Player(driver, scenario, Played()).run(events, close=close)


@dataclass
class _Player:
    driver: Driver
    scenario: Scenario
    played: Played
    pending: list[tuple[Any, ...]] = field(default_factory=list)
    done: int = 0
    committed: int = 0

    def run(self, events: Mapping[int, str], *, close: bool) -> Played:
        for at in sorted(events):
            self._feed(at)
            self._event(events[at])
        self._feed(len(self.scenario.rows))
        self._commit()
        if close:
            self.pending.extend(result_rows(self.driver.batch([], dict.fromkeys(PARTITIONS, END))))
            self._commit()
        return self.played

    def _feed(self, until: int) -> None:
        if until > self.done:
            rows, closing = self.scenario.rows[self.done : until], self.scenario.closing[until - 1]
            self.pending.extend(result_rows(self.driver.batch(rows, closing)))
            self.done = until

    def _event(self, kind: str) -> None:
        match kind:
            case "abort" | "abort_flushed":
                until = self.done
                if kind == "abort_flushed":
                    self.driver.operator.flush(self.driver.context)
                    self.driver.operator.changes()
                self._abort()
                self._feed(until)
            case "idle":
                self.pending.extend(result_rows(self.driver.close_idle([0])))
                self._commit()
            case "cut":
                return
            case _:
                self._commit()
                {"restore": self.driver.restore, "snapshot": self._snapshot, "move": self._move}.get(kind, _nothing)()

    def _abort(self) -> None:
        self.driver.operator.rollback()
        self.pending, self.done = [], self.committed

    def _snapshot(self) -> None:
        self.driver.restore_from_snapshots(PARTITIONS)

    def _move(self) -> None:
        self.driver.move(PARTITIONS[-1])

    def _commit(self) -> None:
        self._publish(self.driver.commit())
        self.played.finals.extend(self.pending)
        self.pending, self.committed = [], self.done

    def _publish(self, flushed: pl.DataFrame) -> None:
        """Apply flushed rows to the table, minding that each key comes once, deletions first."""
        table, seen = self.played.table, set()
        key_columns = [PARTITION, *self.scenario.group, *_bounds(flushed)]
        values = [each.name for each in self.scenario.aggregates]
        for row in flushed.with_columns(pl.col(pl.Datetime).dt.timestamp("ms")).iter_rows(named=True):
            key = comparable(tuple(row[name] for name in key_columns))
            if row[DELETED]:
                assert table.pop(key, None) is not None, "a deletion takes back a row that stood"
                continue
            assert key not in seen, "at most one row per key and flush"
            seen.add(key)
            table[key] = comparable((*(row[name] for name in values), row[TIME], row[STREAM_TIME]))


def _nothing() -> None:
    """A plain commit."""


def _bounds(frame: pl.DataFrame) -> list[str]:
    return [name for name in ("window_start", "window_end") if name in frame.columns]


def play_reference(scenario: Scenario, window: Window | None) -> tuple[list[Result], Reference]:
    """Final results, and the reference after the last row."""
    reference = Reference(scenario.group, window, scenario.aggregates)
    finals = []
    for index, row in enumerate(scenario.rows):
        reference.add(row)
        for partition, closing_ms in scenario.closing[index].items():
            finals.extend(reference.close(partition, closing_ms))
        if index + 1 in scenario.idle:
            finals.extend(reference.close_idle(0))
    for partition in PARTITIONS:
        finals.extend(reference.close(partition, END))
    return finals, reference


def finals_by_key(finals: Sequence[tuple[Any, ...]], width: int) -> dict[Any, tuple[Any, ...]]:
    """Values and times of final rows of `width` group columns, by partition, group and bounds."""
    bounds = width + 2
    return {(row[-3], *row[:bounds]): row[bounds:-3] + row[-2:] for row in finals}


def key_of(result: Result) -> Any:
    """The same key of a result of the reference."""
    bounds = () if result.start_ms is None else (result.start_ms, result.end_ms)
    return comparable((result.partition, *canonical(result.key), *bounds))
