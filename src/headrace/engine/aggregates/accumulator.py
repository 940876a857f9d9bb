"""What an operator asks of an accumulator.

Owns the base class of accumulators and the values handed to them.

- An accumulator keeps its state in columns of the operator's slab, by slot; the slab gives it undo.
- `add` and `merge` do the same whatever the cut: many calls of one row and one call of many rows leave equal state.
- Nulls never reach `_add`.
- The operator has touched every slot it names in a changing call.
- Most accumulators can take any row. One that can refuse (`may_refuse`) is asked before, row by row where it matters,
  so that a refused row changes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.engine.state.arrays import Array, Ints, Mask
from headrace.engine.state.slab import Slab


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows on their way into slots, in order."""

    slots: Ints
    time_ms: Ints
    values: pl.Series | None
    """The aggregate's column; None where it has none."""


class RowRefused(Exception):
    """A trial says that this row cannot be added. Caught by the operator, which sends the row to the dead letters."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Trial(Protocol):
    """One accumulator's state as Python values, tried row by row before anything changes.

    Slots below 0 stand for slots that do not exist yet.
    """

    def read(self, slot: int) -> Any:
        """The state of a slot, with what was put in this trial."""

    def combine(self, left: Any, right: Any) -> Any:
        """Both states in one. Raises `RowRefused`."""

    def step(self, state: Any, row: int) -> Any:
        """The state with the value of that row. Raises `RowRefused`."""

    def put(self, slot: int, state: Any) -> None:
        """The row was taken: this is the slot's state now."""

    def finish(self, slots: Mapping[int, int]) -> None:
        """All rows were tried. `slots` names the real slots of those below 0."""


class Accumulator:
    """State and result of one aggregate column. Subclasses own slab columns called `<aggregate>.<part>`."""

    in_bulk = True
    """False: its trial does the adding, `add` and `merge` are not called."""
    tells_all = False
    """Whether `state` gives everything of a slot, `whole` or not."""

    def __init__(self, slab: Slab, name: str) -> None:
        self.name = name
        self._slab = slab
        self._parts: list[str] = []

    def add(self, rows: Rows) -> None:
        """Add values to slots in order; slots repeat."""
        values = rows.values
        if values is not None and values.null_count():
            kept = values.is_not_null().to_numpy()
            rows = Rows(rows.slots[kept], rows.time_ms[kept], values.drop_nulls())
        if len(rows.slots):
            self._add(rows)

    def _add(self, rows: Rows) -> None:
        raise AssertionError("a subclass adds")

    def merge(self, into: Ints, other: Ints) -> None:
        """Add the states of `other` to those of `into`, pair by pair; `into` repeats, `other` does not."""
        raise AssertionError("a subclass merges")

    def result(self, slots: Ints) -> pl.Series:
        """The aggregate's value of each slot."""
        raise AssertionError("a subclass has results")

    # State on its way to and from the changelog

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        """State columns of the slots. Not `whole`: since the last commit, where the accumulator can tell."""
        return [pl.Series(part, self._slab.taken(part, slots)) for part in self._parts]

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        """Put back what `state` gave, row i into `slots[i]`."""
        for part in self._parts:
            self._slab.put(part, slots, frame[part].to_numpy())

    # Life of slots and epochs; most accumulators keep everything in the slab

    def clear(self, slots: Ints) -> None:
        """The slots are about to be freed."""

    def settle(self, changed: Ints) -> None:
        """A commit was made: tidy up what an undo can no longer need. `changed`: live slots that it changed."""

    def rollback(self) -> None:
        """The slab is about to go back to the last commit."""

    def forget(self, slots: Ints) -> None:
        """These slots, live or freed since the last commit, leave for good."""

    @property
    def bytes(self) -> int:
        """Memory outside the slab."""
        return 0

    # Refusing rows

    def may_refuse(self, values: pl.Series | None, merged_max: int) -> bool:
        """Whether any of these rows could be refused when at most `merged_max` slots become one."""
        return False

    def suspects(self, owners: Ints, values: pl.Series | None, slot_owners: Ints, slots: Ints, count: int) -> Mask:
        """Which of `count` owners could have a row refused, given the owner of each row and of each slot."""
        return np.zeros(count, np.bool_)

    def trial(self, values: pl.Series | None) -> Trial | None:
        """A trial over these values; None when it never refuses."""
        return None

    def _part(self, part: str, dtype: npt.DTypeLike, *, fill: Any = 0, width: int = 0) -> str:
        """A slab column that is part of the changelog as it is."""
        name = f"{self.name}.{part}"
        self._slab.add_column(name, dtype, fill=fill, width=width)
        self._parts.append(name)
        return name


def with_nulls(values: pl.Series, missing: Mask) -> pl.Series:
    """The values, null where `missing`."""
    if not missing.any():
        return values
    rows = pl.Series(np.arange(len(missing))).set(pl.Series(missing), None)
    return values.gather(rows)


def list_series(name: str, lengths: Ints, values: pl.Series) -> pl.Series:
    """A list column of `values` cut into `lengths`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    items = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), items)
    result = pl.from_arrow(lists)
    assert isinstance(result, pl.Series), "an array becomes a series"
    return result.alias(name).cast(pl.List(values.dtype))


def list_parts(lists: pl.Series) -> tuple[Ints, pl.Series]:
    """Lengths and values of a list column without nulls."""
    lengths = lists.list.len().to_numpy().astype(np.int64)
    return lengths, lists.explode(empty_as_null=False, keep_nulls=False)


def to_array(values: pl.Series, dtype: pl.DataType) -> Array:
    """The values (no nulls) as NumPy, of the Polars type `dtype`."""
    return values.cast(dtype).to_numpy()
