"""`RetractStep`: what comes out, added up, is the table."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.engine.operator import (
    DELETED,
    PARTITION,
    RETRACTS,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
)
from headrace.engine.operators.retract import Retract
from headrace.flow.steps import RetractStep
from headrace.flow.values import ROW_TIME
from tests.engine.operators.table_driver import PIECES, Change, Driver, frame_of, played
from tests.engine.operators.table_life import column

COLUMNS: dict[str, pl.DataType] = {"name": pl.String(), "size": pl.Int64(), "tags": pl.List(pl.String())}
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def step(*, versioned: bool = False) -> RetractStep:
    """Over a table keyed by `name`."""
    return RetractStep(
        name="retract",
        columns=tuple(column(name, dtype) for name, dtype in {**COLUMNS, ROW_TIME: pl.Int64()}.items()),
        key=("name",),
        changelog="p.retract.changelog",
        fingerprint="f",
        has_retractions=True,
        versioned=versioned,
    )


def driver(*, versioned: bool = False) -> Driver:
    """The step at work."""
    return Driver(lambda: Retract(step(versioned=versioned), COLUMNS))


def changes() -> st.SearchStrategy[list[Change]]:
    """Changes of a few keys (null among them) in two partitions, out of order."""
    values = st.none() | st.tuples(
        st.none() | st.integers(0, 5), st.none() | st.lists(st.sampled_from(["a", "b", None]), max_size=2)
    )
    one = st.builds(
        Change,
        side=st.just(0),
        partition=st.integers(0, 1),
        key=st.sampled_from(["a", "b", "a much longer key", None]),
        values=values,
        time_ms=st.integers(0, 30),
    )
    return st.lists(one, max_size=30)


def plain(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Rows in the order: key, values, row's time, partition, time, stream time, sequence, whether it takes back."""
    return frame.drop(SOURCE).rows()


class Reference:
    """One record at a time."""

    def __init__(self, *, versioned: bool) -> None:
        self.versioned, self.dropped = versioned, 0
        self.table: dict[Any, tuple[Any, ...]] = {}
        self.newest: dict[Any, int] = {}

    def change(self, number: int, change: Change) -> list[tuple[Any, ...]]:
        """What a change gives."""
        at = (change.partition, change.key)
        if self.versioned and change.time_ms < self.newest.get(at, change.time_ms):
            self.dropped += 1
            return []
        self.newest[at] = change.time_ms
        system = (change.partition, change.time_ms, change.stream_time_ms, number)
        old = self.table.pop(at, None)
        said = [] if old is None else [(*old, *system, True)]
        if change.values is not None:
            self.table[at] = (change.key, *change.values, change.time_ms)
            said.append((*self.table[at], *system, False))
        return said


def check(made: Driver, all_changes: list[Change], pieces: list[tuple[int, str]], *, versioned: bool) -> None:
    """Whatever the cuts and restarts, each change gives what the reference says."""
    reference = Reference(versioned=versioned)
    wanted = [reference.change(number, each) for number, each in enumerate(all_changes)]
    for first, last, end in played(made, len(all_changes), pieces):
        part = list(enumerate(all_changes))[first:last]
        if part:
            output = made.process(frame_of(part, "name", COLUMNS))
            assert plain(output) == [row for rows in wanted[first:last] for row in rows]
        if end == "commit":
            made.commit()
    if not any(end == "undo" for _, end in pieces):
        assert made.context.dropped["out_of_order"] == reference.dropped
    held = reference.newest if versioned else reference.table
    assert made.keys() == len(held), "a deleted key leaves nothing, but its time where versions count"


@EXAMPLES
@given(all_changes=changes(), pieces=PIECES)
def test_each_row_takes_back_what_stood_and_brings_what_stands(
    all_changes: list[Change], pieces: list[tuple[int, str]]
) -> None:
    """For any cuts, aborts and restarts; never compressed; with the times of the row that made the change."""
    check(driver(), all_changes, pieces, versioned=False)


@EXAMPLES
@given(all_changes=changes(), pieces=PIECES)
def test_a_versioned_table_ignores_rows_older_than_the_newest(
    all_changes: list[Change], pieces: list[tuple[int, str]]
) -> None:
    """Deletions count as versions, equal times go by arrival, and what is left out is counted."""
    check(driver(versioned=True), all_changes, pieces, versioned=True)


def test_a_table_of_keys_alone() -> None:
    """Without further columns, a row still comes and goes."""
    only = step().model_copy(update={"columns": (column("name", pl.String()),)})
    made = Driver(lambda: Retract(only, {"name": pl.String()}))
    sequence = [
        Change(0, 0, "a", (), 1),
        Change(0, 0, "a", (), 2),
        Change(0, 0, "a", None, 3),
        Change(0, 0, "b", None, 3),
    ]
    output = made.process(frame_of(list(enumerate(sequence)), "name", {"name": pl.String()}))
    assert output.columns == ["name", *SYSTEM_COLUMNS, RETRACTS]
    assert output.select("name", RETRACTS, SEQUENCE).rows() == [
        ("a", False, 0),
        ("a", True, 1),
        ("a", False, 1),
        ("a", True, 2),
    ]
    made.commit()
    assert made.keys() == 0


def volume_frame(rows: int, keys: int) -> pl.DataFrame:
    """Many changes of many keys, one in ten a deletion."""
    random = np.random.default_rng(1)
    gone = random.random(rows) < 0.1
    data: dict[str, Iterable[Any]] = {
        "name": [f"key {number}" for number in random.integers(0, keys, rows).tolist()],
        "size": random.integers(0, 100, rows),
        PARTITION: np.zeros(rows, np.int32),
        TIME: np.arange(rows),
        STREAM_TIME: np.arange(rows),
        SEQUENCE: np.arange(rows),
        DELETED: gone,
    }
    source = pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE]).new_from_index(0, rows)
    return pl.DataFrame(data).with_columns(source, pl.lit(None, COLUMNS["tags"]).alias("tags"))


def test_a_hundred_thousand_changes_take_no_python_loop() -> None:
    """Batches of 10,000 rows over 20,000 keys, in far less than a second each."""
    made = driver()
    frame = volume_frame(100_000, 20_000)
    began = time.process_time()
    balance = 0
    for start in range(0, frame.height, 10_000):
        output = made.process(frame.slice(start, 10_000))
        balance += output.height - 2 * int(output[RETRACTS].sum())
        made.operator.changes()
        made.operator.commit()
    assert time.process_time() - began < 4.0
    assert balance == made.keys(), "what came and did not go is what stands"
