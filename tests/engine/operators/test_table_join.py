"""Stream-table join against a record-at-a-time reference."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, SYSTEM_COLUMNS, TIME
from headrace.engine.operators.table_join import TableJoin
from headrace.engine.state import table_store
from headrace.flow.steps import TableJoinStep
from headrace.flow.values import Column

pytestmark = pytest.mark.usefixtures("each_way")


@dataclass(frozen=True)
class Event:
    """One input record in arrival order."""

    side: str
    partition: int
    key: str | None
    value: int | None
    time_ms: int


EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(["stream", "table"]),
        st.integers(0, 1),
        st.sampled_from(["a", "b", "c", None]),
        st.one_of(st.none(), st.integers(0, 9)),
        st.integers(0, 50),
    ).filter(lambda e: e.side == "stream" or e.key is not None),
    max_size=40,
)


def reference(events: list[Event], *, how: str, as_of: bool, history_ms: int | None) -> list[tuple[Any, ...]]:
    """One record at a time, plainly."""
    versions: dict[tuple[int, str | None], list[tuple[int, int, int | None]]] = defaultdict(list)
    observed: dict[int, int] = {}
    rows = []
    for arrival, event in enumerate(events):
        here = (event.partition, event.key)
        if event.side == "table":
            versions[here].append((event.time_ms, arrival, event.value))
            observed[event.partition] = max(observed.get(event.partition, -1), event.time_ms)
            continue
        found: int | None = None
        if as_of:
            ordered = sorted(versions[here], key=lambda v: v[:2])
            before = [version for version in ordered if version[0] <= event.time_ms]
            if before:
                newest = before[-1] == ordered[-1]
                too_old = history_ms is not None and event.time_ms < observed[event.partition] - history_ms
                found = before[-1][2] if newest or not too_old else None
        elif versions[here]:
            found = versions[here][-1][2]
        if event.key is None:
            found = None
        if how == "left" or found is not None:
            rows.append((event.partition, event.key, event.value, found))
    return rows


class Context:
    """Counts what an operator leaves out."""

    def __init__(self) -> None:
        self.dropped: dict[str, int] = defaultdict(int)
        self.errors: list[str] = []

    def dead_letter(self, frame: pl.DataFrame, errors: Any, *, input_index: int | None = 0) -> None:
        self.errors.extend(error.code for error in errors)

    def count_dropped(self, reason: str, count: int) -> None:
        self.dropped[reason] += count

    def closing_time_ms(self) -> dict[int, int]:
        return {}

    def now_ms(self) -> int:
        return 0


def make_join(*, how: str, as_of: bool, history_ms: int | None) -> TableJoin:
    columns = tuple(Column(name=n, type="string") for n in ("k", "v", "found"))
    step = TableJoinStep(
        name="join",
        inputs=("stream", "table"),
        columns=columns,
        on=(("k", "id"),),
        how=how,
        as_of=as_of,
        renames={"value": "found"},
        max_wait_ms=0,
    )
    return TableJoin(step, {"id": pl.String(), "value": pl.Int64()}, history_ms=history_ms)


def frames(events: list[Event]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The two inputs of one call, numbered in arrival order."""
    numbered = list(enumerate(events))
    stream = [(e.partition, e.key, e.value, e.time_ms, n) for n, e in numbered if e.side == "stream"]
    table = [(e.partition, e.key, e.value, e.time_ms, n, e.value is None) for n, e in numbered if e.side == "table"]
    types = {PARTITION: pl.Int32, "k": pl.String, "v": pl.Int64, TIME: pl.Int64, SEQUENCE: pl.Int64}
    left = pl.DataFrame(stream, schema=types, orient="row")
    left = left.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in SYSTEM_COLUMNS.items() if name not in left.columns
    )
    names = {PARTITION: pl.Int32, "id": pl.String, "value": pl.Int64, TIME: pl.Int64, SEQUENCE: pl.Int64}
    right = pl.DataFrame(table, schema={**names, DELETED: pl.Boolean}, orient="row")
    return left, right


def run(join: TableJoin, events: list[Event], cuts: list[int], context: Context) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for start, stop in zip([0, *cuts], [*cuts, len(events)], strict=True):
        output = join.process(list(frames(events[start:stop])), context)
        rows.extend(output.select(PARTITION, "k", "v", "found").rows())
    return rows


@settings(max_examples=300, deadline=None)
@given(
    events=EVENTS,
    how=st.sampled_from(["inner", "left"]),
    as_of=st.booleans(),
    history_ms=st.sampled_from([None, 10, 1000]),
    data=st.data(),
)
def test_any_cut_and_any_rollback_give_the_record_at_a_time_answer(
    events: list[Event], how: str, as_of: bool, history_ms: int | None, data: st.DataObject
) -> None:
    """Cutting the input anywhere, and undoing a stretch that is then processed again, changes nothing."""
    join = make_join(how=how, as_of=as_of, history_ms=history_ms)
    context = Context()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    undone = data.draw(st.integers(0, len(events)))
    committed = data.draw(st.integers(0, undone))
    run(join, events[:committed], [], Context())
    join.commit()
    run(join, events[committed:undone], [], Context())
    join.rollback()
    join.commit()
    fresh = make_join(how=how, as_of=as_of, history_ms=history_ms)
    expected = reference(events, how=how, as_of=as_of, history_ms=history_ms)
    assert run(fresh, events, cuts, context) == expected
    again = run(join, events[committed:], [], Context())
    before = reference(events[:committed], how=how, as_of=as_of, history_ms=history_ms)
    assert again == expected[len(before) :]


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, history_ms=st.sampled_from([0, 10, 30]), size=st.integers(1, 6))
def test_versions_that_nobody_can_see_are_forgotten_and_nothing_else(
    events: list[Event], history_ms: int, size: int
) -> None:
    """With a commit after every few rows, the answers stay those of the whole history."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(table_store, "GARBAGE_ROWS_MIN", 2)
        patched.setattr(table_store, "GROWTH", 1)
        join = make_join(how="left", as_of=True, history_ms=history_ms)
        found: list[tuple[Any, ...]] = []
        for first in range(0, len(events), size):
            found += run(join, events[first : first + size], [], Context())
            join.commit()
    assert found == reference(events, how="left", as_of=True, history_ms=history_ms)


def test_a_version_that_comes_later_hides_no_newer_one() -> None:
    """Two versions of one time before the history, the second behind the row that asks: a newer one counts for it."""
    events = [
        Event("table", 1, "c", None, 11),
        Event("table", 1, "c", 0, 0),
        Event("stream", 1, "c", None, 0),
        Event("table", 1, "c", None, 0),
    ]
    join = make_join(how="left", as_of=True, history_ms=10)
    assert run(join, events, [], Context()) == reference(events, how="left", as_of=True, history_ms=10)


def test_versions_beyond_the_history_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that changes for long holds its history, not its life."""
    monkeypatch.setattr(table_store, "GARBAGE_ROWS_MIN", 100)
    join = make_join(how="left", as_of=True, history_ms=50)
    for first in range(0, 5_000, 50):
        run(join, [Event("table", 0, "a", 1, first + n) for n in range(50)], [], Context())
        join.commit()
    assert len(join._store._slot) <= 300


@pytest.mark.parametrize("keys", [["a", "b"], ["a"]])
def test_a_table_of_keys_alone_says_which_rows_have_a_partner(keys: list[str]) -> None:
    """A join may take nothing of the table but that a row is there."""
    columns = (Column(name="k", type="string"), Column(name="v", type="string"))
    step = TableJoinStep(
        name="join",
        inputs=("stream", "table"),
        columns=columns,
        on=(("k", "id"),),
        how="inner",
        as_of=False,
        renames={},
        max_wait_ms=0,
    )
    join = TableJoin(step, {"id": pl.String()}, history_ms=None)
    _, table = frames([Event("table", 0, key, 1, 0) for key in keys])
    stream, _ = frames([Event("stream", 0, key, n, 1) for n, key in enumerate(["b", "a", "c"])])
    stream = stream.with_columns(pl.col(SEQUENCE) + table.height)
    output = join.process([stream, table.drop("value")], Context())
    assert output["k"].to_list() == [key for key in ["b", "a", "c"] if key in keys]


def test_forgotten_partitions_match_nothing_and_others_stay() -> None:
    """A partition that moved away takes its rows along, and only its own."""
    join = make_join(how="left", as_of=False, history_ms=None)
    run(join, [Event("table", 0, "a", 1, 0), Event("table", 1, "a", 2, 0)], [], Context())
    join.commit()
    join.forget_table([0])
    asked = [Event("stream", 0, "a", 0, 1), Event("stream", 1, "a", 0, 1)]
    assert [row[3] for row in run(join, asked, [], Context())] == [None, 2]


@pytest.mark.parametrize(("how", "dropped"), [("inner", 1), ("left", 0)])
def test_a_null_key_is_dropped_and_dead_lettered_by_an_inner_join_only(how: str, dropped: int) -> None:
    """A null key is never silently lost."""
    join, context = make_join(how=how, as_of=False, history_ms=None), Context()
    rows = run(join, [Event("stream", 0, None, 1, 0)], [], context)
    assert context.dropped["null_key"] == dropped == len(context.errors)
    assert len(rows) == 1 - dropped
