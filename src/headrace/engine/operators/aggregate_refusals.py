"""Rows that an accumulator refuses (a sum out of range, a user's function that raises).

Owns the trial of such rows, one after the other, before anything changes.

- A row is taken by all accumulators in all its slots, or by none.
- Only rows that could be refused are tried; the others never leave the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, RowRefused, Trial
from headrace.engine.state.arrays import Ints, Mask

Target = tuple[int, Sequence[int]]
"""A slot that a row goes into, and slots that are merged into it for this row. Below 0: not made yet."""


class RowTrials:
    """The trials of all accumulators over the same rows."""

    def __init__(self, accumulators: Sequence[Accumulator], values: Sequence[pl.Series | None]) -> None:
        trials = [each.trial(column) for each, column in zip(accumulators, values, strict=True)]
        self._trials: list[Trial] = [trial for trial in trials if trial is not None]

    def attempt(self, row: int, targets: Sequence[Target]) -> RowRefused | None:
        """Try to put a row into its slots; the reason when one refuses, and then nothing happened."""
        staged: list[tuple[Trial, int, Any]] = []
        try:
            for trial in self._trials:
                for slot, merged in targets:
                    state = trial.read(slot)
                    for other in merged:
                        state = trial.combine(state, trial.read(other))
                    staged.append((trial, slot, trial.step(state, row)))
        except RowRefused as refused:
            return refused
        _put(staged)
        return None

    def attempt_runs(self, targets: Sequence[tuple[int, Sequence[int]]]) -> RowRefused | None:
        """Try to put rows into slots, one after the other each; the reason when one refuses, and then nothing
        happened."""
        staged: list[tuple[Trial, int, Any]] = []
        try:
            for trial in self._trials:
                for slot, rows in targets:
                    state = trial.read(slot)
                    for row in rows:
                        state = trial.step(state, row)
                    staged.append((trial, slot, state))
        except RowRefused as refused:
            return refused
        _put(staged)
        return None

    def finish(self, slots: Mapping[int, int]) -> None:
        """All rows were tried; accumulators that add in their trial write what they have."""
        for trial in self._trials:
            trial.finish(slots)


def _put(staged: Sequence[tuple[Trial, int, Any]]) -> None:
    for trial, slot, state in staged:
        trial.put(slot, state)


def may_refuse(accumulators: Sequence[Accumulator], values: Sequence[pl.Series | None], merged_max: int = 1) -> bool:
    """Whether any row could be refused at all; cheap, and nearly always false."""
    answers = [each.may_refuse(column, merged_max) for each, column in zip(accumulators, values, strict=True)]
    return any(answers)


def suspected(
    accumulators: Sequence[Accumulator],
    values: Sequence[pl.Series | None],
    owners: Ints,
    slot_owners: Ints,
    slots: Ints,
    count: int,
) -> Mask:
    """Owners (of rows and of slots) whose rows must be tried."""
    result = np.zeros(count, np.bool_)
    for accumulator, column in zip(accumulators, values, strict=True):
        result |= accumulator.suspects(owners, column, slot_owners, slots, count)
    return result
