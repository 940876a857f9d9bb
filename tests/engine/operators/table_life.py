"""Lives of a table that is grouped: changes, cuts, commits, restarts; and the answer, one record at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import polars as pl
from hypothesis import strategies as st

from headrace.contracts.polars_types import dtype_to_avro
from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.engine.operators.aggregate import make_aggregate
from headrace.engine.operators.retract import Retract
from headrace.flow.steps import AggregateColumn, AggregateStep, RetractStep
from headrace.flow.values import ROW_TIME, Column, Emit
from tests.engine.operators.aggregate_driver import comparable, make_step
from tests.engine.operators.aggregate_scenarios import AGGREGATES, AGGREGATES_MAX, COLUMNS, Trail, values_of
from tests.engine.operators.table_driver import PIECES, Driver, played
from tests.engine.reference import LONG_MAX, RAISES, Row, canonical, compute

KEY = "flight"
TABLE: dict[str, pl.DataType] = {KEY: pl.Int64(), **COLUMNS}
RETRACTED = {**TABLE, ROW_TIME: pl.Int64()}
GROUPS = (("carrier",), ("carrier", "gate"))
DECIMAL_MAX = 10**38 - 1


class TakenTrail(Trail):
    """All values that stand, in order."""

    def init(self) -> Any:
        return []

    def add(self, state: Any, value: str | None) -> Any:
        if value == RAISES:
            raise ValueError("no such plane")
        return [*state, value]

    def subtract(self, state: Any, value: str | None) -> Any:
        """Without the first equal one."""
        state.remove(value)
        return state

    def result(self, state: Any) -> str:
        return "".join(f"{value};" for value in state)


@dataclass(frozen=True)
class Change:
    """A change of the table. `values` is None for a deletion."""

    partition: int
    key: int
    values: Mapping[str, Any] | None
    time_ms: int
    stream_time_ms: int


def change_frame(changes: Sequence[Change]) -> pl.DataFrame:
    """Changes as an operator gets them."""
    data = [
        pl.Series(name, [c.key if name == KEY else (c.values or {}).get(name) for c in changes], dtype, strict=True)
        for name, dtype in TABLE.items()
    ]
    system = {
        PARTITION: [c.partition for c in changes],
        TIME: [c.time_ms for c in changes],
        STREAM_TIME: [c.stream_time_ms for c in changes],
        SEQUENCE: list(range(len(changes))),
        SOURCE: [None] * len(changes),
    }
    data += [pl.Series(name, system[name], dtype) for name, dtype in SYSTEM_COLUMNS.items()]
    return pl.DataFrame([*data, pl.Series(DELETED, [c.values is None for c in changes], pl.Boolean)])


def column(name: str, dtype: pl.DataType) -> Column:
    """A column of a plan."""
    return Column(name=name, type=dtype_to_avro(dtype, nullable=True, path=name))


def retract_step(*, versioned: bool = False) -> RetractStep:
    """The step that takes rows of the table back."""
    return RetractStep(
        name="retract",
        columns=tuple(column(name, dtype) for name, dtype in RETRACTED.items()),
        key=(KEY,),
        changelog="p.retract.changelog",
        fingerprint="f",
        has_retractions=True,
        versioned=versioned,
    )


@dataclass
class Group:
    """Rows of a group, for each aggregate in its own order."""

    key: tuple[Any, ...]
    rows: list[list[Row]]
    count: int = 0
    time_ms: int = -(2**62)
    stream_time_ms: int = -(2**62)


class TableReference:
    """Aggregates of a table: every row that comes is put in, every row that goes is taken out."""

    def __init__(self, group: Sequence[str], aggregates: Sequence[AggregateColumn], *, keep_empty: bool) -> None:
        self.group, self.aggregates, self.keep_empty = list(group), list(aggregates), keep_empty
        self.table: dict[tuple[int, int], Row] = {}
        self.groups: dict[tuple[Any, ...], Group] = {}
        self.spoken: set[tuple[Any, ...]] = set()
        self.touched: dict[tuple[Any, ...], None] = {}

    def change(self, change: Change) -> None:
        """One change of the table."""
        at = (change.partition, change.key)
        if at in self.table:
            self._record(self.table.pop(at), -1, change)
        if change.values is not None:
            self.table[at] = Row(change.partition, change.time_ms, change.stream_time_ms, change.values)
            self._record(self.table[at], 1, change)

    def _record(self, row: Row, sign: int, by: Change) -> None:
        key = tuple(row.values[name] for name in self.group)
        refused = any(each.function == "custom" and row.values[str(each.column)] == RAISES for each in self.aggregates)
        if all(part is None for part in key) or refused:
            return
        at = (row.partition, canonical(key))
        group = self.groups.setdefault(at, Group(key, [[] for _ in self.aggregates]))
        if not group.count and not self.keep_empty:
            group.time_ms = group.stream_time_ms = -(2**62)
        group.time_ms = max(group.time_ms, by.time_ms)
        group.stream_time_ms = max(group.stream_time_ms, by.stream_time_ms)
        group.count += sign
        for each, rows in zip(self.aggregates, group.rows, strict=True):
            rows.append(row) if sign > 0 else _take_first_equal(each, rows, row)
        self.touched.pop(at, None)
        self.touched[at] = None

    def flush(self) -> list[tuple[Any, ...]]:
        """What a commit says: groups in the order in which they were touched last, partitions one after the other."""
        said = []
        for at in sorted(self.touched, key=lambda each: each[0]):
            group = self.groups[at]
            gone = not group.count and not self.keep_empty
            if gone and at not in self.spoken:
                continue
            (self.spoken.discard if gone else self.spoken.add)(at)
            values = [None if gone else table_value(*each) for each in zip(self.aggregates, group.rows, strict=True)]
            said.append((*group.key, *values, at[0], group.time_ms, group.stream_time_ms, gone))
        self.touched = {}
        return said


def _take_first_equal(aggregate: AggregateColumn, rows: list[Row], row: Row) -> None:
    def identity(each: Row) -> Any:
        value = None if aggregate.column is None else canonical(each.values[aggregate.column])
        return (value, each.time_ms if aggregate.function in ("first", "last") else None)

    rows.pop([identity(each) for each in rows].index(identity(row)))


def table_value(aggregate: AggregateColumn, rows: Sequence[Row]) -> Any:
    """One aggregate: as over a stream, but for sums of doubles, which cut nothing off, and sums out of range."""
    values = [
        row.values[aggregate.column] for row in rows if aggregate.column and row.values[aggregate.column] is not None
    ]
    if aggregate.function in ("sum", "mean") and values and isinstance(values[0], float):
        special = sum((value for value in values if not math.isfinite(value)), 0.0)
        total = special if special != 0.0 else float(sum(map(Fraction, values), Fraction(0)))
        return total / (len(values) if aggregate.function == "mean" else 1)
    if aggregate.function == "sum" and values:
        unscaled = sum(Fraction(value) * (1 if isinstance(value, int) else 100) for value in values)
        if abs(unscaled) > (LONG_MAX if isinstance(values[0], int) else DECIMAL_MAX):
            return None
    if aggregate.function == "custom":
        return "".join(f"{row.values[aggregate.column]};" for row in rows)
    return compute(aggregate, rows)


@dataclass(frozen=True)
class Life:
    """What happens to a table and the step that groups it."""

    changes: list[Change]
    pieces: list[tuple[int, str]]
    cuts: list[int]
    """Where the rows between both steps are cut."""
    aggregates: list[AggregateColumn]
    group: tuple[str, ...]
    keep_empty: bool

    def step(self) -> AggregateStep:
        """The aggregate step."""
        made = make_step(self.group, None, self.aggregates, COLUMNS, Emit.UPDATES)
        return made.model_copy(update={"keep_empty": self.keep_empty})

    def reference(self) -> TableReference:
        """The answer at the beginning."""
        return TableReference(self.group, self.aggregates, keep_empty=self.keep_empty)


@st.composite
def lives(draw: st.DrawFn, aggregates: Sequence[AggregateColumn] = AGGREGATES) -> Life:
    """Changes of a few keys in two partitions, out of order."""
    chosen = draw(
        st.lists(st.sampled_from(aggregates), min_size=1, max_size=AGGREGATES_MAX, unique_by=lambda each: each.name)
    )
    group = draw(st.sampled_from(GROUPS))
    values = values_of({*group, *(each.column for each in chosen if each.column is not None)})
    count = draw(st.integers(1, 25))
    clock, changes = [0, 0], []
    for _ in range(count):
        partition, key = draw(st.integers(0, 1)), draw(st.integers(0, 3))
        time_ms = max(0, len(changes) - draw(st.sampled_from([0, 0, 1, 5])))
        clock[partition] = max(clock[partition], time_ms)
        stands = draw(st.sampled_from([True, True, True, False]))
        changes.append(Change(partition, key, draw(values) if stands else None, time_ms, clock[partition]))
    cuts = draw(st.lists(st.integers(1, 20), max_size=6))
    return Life(changes, draw(PIECES), cuts, chosen, group, draw(st.booleans()))


@dataclass
class Told:
    """What one commit said, and what it should have said."""

    made: list[tuple[Any, ...]]
    wanted: list[tuple[Any, ...]]


class Both(Driver):
    """Two drivers that restart together."""

    def __init__(self, *drivers: Driver) -> None:
        self._drivers = drivers

    def rollback(self) -> None:
        """Undo in both."""
        for driver in self._drivers:
            driver.rollback()

    def restore(self) -> None:
        """Restart both."""
        for driver in self._drivers:
            driver.restore()

    def move(self, partition: int) -> None:
        """Move both."""
        for driver in self._drivers:
            driver.move(partition)

    def restore_from_snapshots(self, partitions: Iterable[int], rows_max: int = 2) -> None:
        """Restart both from whole states."""
        for driver in self._drivers:
            driver.restore_from_snapshots(partitions, rows_max)


@dataclass
class Chain:
    """Both steps at work, and the answer beside them."""

    life: Life
    retract: Driver = field(init=False)
    aggregate: Driver = field(init=False)

    def __post_init__(self) -> None:
        """Make the operators."""
        functions = {f"totals.{e.name}": TakenTrail("plane") for e in self.life.aggregates if e.function == "custom"}
        self.retract = Driver(lambda: Retract(retract_step(), TABLE))
        self.aggregate = Driver(lambda: make_aggregate(self.life.step(), RETRACTED, functions, retracts=True))

    def run(self) -> Iterator[Told]:
        """Live, commit after commit."""
        answer, committed = self.life.reference(), self.life.reference()
        cuts, behind = iter(self.life.cuts), 0
        for first, last, end in played(Both(self.retract, self.aggregate), len(self.life.changes), self.life.pieces):
            if first < behind:
                answer = copy.deepcopy(committed)
            behind = last
            changes = self.life.changes[first:last]
            for change in changes:
                answer.change(change)
            self.feed(changes, next(cuts, 1_000))
            if end == "commit":
                yield self._told(answer)
                committed = copy.deepcopy(answer)

    def feed(self, changes: Sequence[Change], size: int = 1_000) -> None:
        """Changes through both steps; between them in pieces of some size."""
        if not changes:
            return
        rows = self.retract.process(change_frame(changes))
        for start in range(0, rows.height, size):
            self.aggregate.process(rows.slice(start, size))

    def commit(self) -> pl.DataFrame:
        """Commit both; what was said."""
        self.retract.commit()
        return self.aggregate.commit()

    def restart(self) -> None:
        """Both from their changelogs."""
        self.retract.restore()
        self.aggregate.restore()

    def _told(self, answer: TableReference) -> Told:
        flushed = self.commit()
        assert flushed[SEQUENCE].to_list() == list(range(flushed.height))
        made = [comparable(row) for row in flushed.drop(SEQUENCE, SOURCE).rows()]
        return Told(made, [comparable(row) for row in answer.flush()])
