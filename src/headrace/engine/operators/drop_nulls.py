"""Leaving out rows with nulls.

Owns no state. What is left out is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from headrace.engine.operator import OperatorContext
from headrace.engine.row_picks import pick
from headrace.flow.steps import DropNullsStep

NULL_VALUE = "null_value"


class DropNulls:
    """Rows with a value in every required column."""

    def __init__(self, step: DropNullsStep) -> None:
        self._required = step.required

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        kept = np.ones(frame.height, np.bool_)
        for name in self._required:
            if frame[name].null_count():
                kept &= frame[name].is_not_null().to_numpy()
        context.count_dropped(NULL_VALUE, int(frame.height - kept.sum()))
        return pick(frame, kept)
