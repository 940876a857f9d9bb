"""A user's `Aggregator`, called row by row.

- Every call gets a copy of the state, so a method that raises half-way, or changes what it was given, changes nothing.
- A call that raises, a state that JSON cannot hold, or a result of another type than the aggregator says, refuses the
  row with `process.function_raised`.
- States live in a list that only grows within an epoch; the slab holds each slot's place in it, so undo is free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, RowRefused, Trial
from headrace.engine.state.arrays import Ints, Mask
from headrace.engine.state.slab import Slab
from headrace.engine.user_errors import RAISED, USER_ERRORS, describe
from headrace.flow.aggregator import AggregatorMethods

STATES_KEPT_MIN = 1_024
"""Below this many states old ones are not looked for."""
_EMPTY = -1


class Custom(Accumulator):
    """Python states, as JSON text."""

    tells_all = True

    in_bulk = False

    def __init__(self, slab: Slab, name: str, methods: AggregatorMethods, dtype: pl.DataType) -> None:
        super().__init__(slab, name)
        self._methods, self._dtype = methods, dtype
        self._place = f"{name}#place"
        self._state = f"{name}.state"
        slab.add_column(self._place, np.int64, fill=_EMPTY)
        self._texts: list[str] = []
        self._settle_at = STATES_KEPT_MIN

    def result(self, slots: Ints) -> pl.Series:
        return self.column([self._methods.result(self.read(slot)) for slot in slots.tolist()])

    def column(self, results: list[Any]) -> pl.Series:
        """Results as the output column. Raises when one is not of the type."""
        return pl.Series(self.name, results, dtype=self._dtype)

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        texts = [self._texts[place] if place >= 0 else None for place in self._slab[self._place][slots].tolist()]
        return [pl.Series(self._state, texts, dtype=pl.String)]

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        for slot, text in zip(slots.tolist(), frame[self._state].to_list(), strict=True):
            self._slab[self._place][slot] = _EMPTY if text is None else self._keep(text)

    def settle(self, changed: Ints) -> None:
        if len(self._texts) < self._settle_at:
            return
        live = self._slab.live()
        held = live[self._slab[self._place][live] >= 0]
        self._texts = [self._texts[place] for place in self._slab[self._place][held].tolist()]
        self._slab[self._place][held] = np.arange(len(held))
        self._settle_at = max(STATES_KEPT_MIN, 2 * len(held))

    @property
    def bytes(self) -> int:
        return sum(map(len, self._texts[:1000])) * max(1, len(self._texts) // 1000)

    def may_refuse(self, values: pl.Series | None, merged_max: int) -> bool:
        return True

    def suspects(self, owners: Ints, values: pl.Series | None, slot_owners: Ints, slots: Ints, count: int) -> Mask:
        return np.ones(count, np.bool_)

    def trial(self, values: pl.Series | None) -> Trial | None:
        return CustomTrial(self, self._methods, values)

    def read(self, slot: int) -> Any:
        """A copy of the slot's state."""
        place = int(self._slab[self._place][slot]) if slot >= 0 else _EMPTY
        return self._methods.init() if place == _EMPTY else json.loads(self._texts[place])

    def write(self, slot: int, text: str) -> None:
        """Make this the slot's state."""
        self._slab[self._place][slot] = self._keep(text)

    def _keep(self, text: str) -> int:
        self._texts.append(text)
        return len(self._texts) - 1


class CustomTrial:
    """States in a trial are JSON text, so that nothing is shared between calls."""

    def __init__(self, accumulator: Custom, methods: AggregatorMethods, values: pl.Series | None) -> None:
        self._accumulator, self._methods, self._values = accumulator, methods, values
        self._texts: dict[int, str] = {}

    def read(self, slot: int) -> str:
        if slot not in self._texts:
            return self._checked(lambda: self._accumulator.read(slot))
        return self._texts[slot]

    def combine(self, left: str, right: str) -> str:
        return self._checked(lambda: self._methods.merge(json.loads(left), json.loads(right)))

    def step(self, state: str, row: int) -> str:
        return self._looked_at(self._methods.add, state, row)

    def put(self, slot: int, state: str) -> None:
        self._texts[slot] = state

    def finish(self, slots: Mapping[int, int]) -> None:
        for slot, text in self._texts.items():
            self._accumulator.write(slots.get(slot, slot), text)

    def _looked_at(self, method: Callable[[Any, Any], Any], state: str, row: int) -> str:
        """The state after a call with the value of that row."""
        value = None if self._values is None else self._values[row]

        def call_and_look() -> Any:
            after = method(json.loads(state), value)
            # A state without a result of the type would stop the commit later; here it costs one row.
            self._accumulator.column([self._methods.result(json.loads(json.dumps(after)))])
            return after

        return self._checked(call_and_look)

    def _checked(self, call: Any) -> str:
        try:
            return json.dumps(call())
        except USER_ERRORS as error:
            raise RowRefused(RAISED, f"{self._accumulator.name}: {describe(error)}") from error
