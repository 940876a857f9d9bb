"""Group keys: the group columns of a step as small numbers.

- Nulls are ordinary values of a group column, as in SQL's GROUP BY.
- A row whose group columns are all null has no key.
- A step without group columns has one group, number 0.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

import numpy as np
import polars as pl

from headrace.engine.state.arrays import Ints, Mask
from headrace.engine.state.dictionary import Dictionary


class GroupKeys:
    """Ids of group keys."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._schema = dict(schema)
        self._dictionary = Dictionary(schema) if schema else None
        self._zeros = [_one_zero(name) for name, dtype in self._schema.items() if dtype.is_float()]

    def without_key(self, frame: pl.DataFrame) -> Mask:
        """Rows that belong to no group."""
        nulls = [frame[name].is_null() for name in self._schema if frame[name].null_count()]
        if not nulls or len(nulls) < len(self._schema):
            return np.zeros(frame.height, np.bool_)
        return functools.reduce(operator.and_, nulls).to_numpy()

    def intern(self, frame: pl.DataFrame) -> Ints:
        """The id of each row's group, new ones added."""
        if self._dictionary is None:
            return np.zeros(frame.height, np.int64)
        return self._dictionary.intern(self._with_one_zero(frame))

    def find(self, frame: pl.DataFrame) -> Ints:
        """The id of each row's group, -1 for unknown ones."""
        if self._dictionary is None:
            return np.zeros(frame.height, np.int64)
        return self._dictionary.find(self._with_one_zero(frame))

    def take(self, ids: Ints) -> pl.DataFrame:
        """The group columns of these groups. Without group columns a frame without columns."""
        return pl.DataFrame() if self._dictionary is None else self._dictionary.take(ids)

    def intern_restored(self, frame: pl.DataFrame) -> Ints:
        """The same for a frame that came through the log, where types may have lost a detail."""
        return self.intern(frame.with_columns(pl.col(name).cast(dtype) for name, dtype in self._schema.items()))

    def reserve(self, count: int) -> None:
        """Make room for so many groups at once."""
        if self._dictionary is not None:
            self._dictionary.reserve(count)

    def _with_one_zero(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Both zeros are one group: one spelling for output, whichever came first."""
        return frame.with_columns(self._zeros) if self._zeros else frame

    @property
    def wants_retain(self) -> bool:
        """Whether it has doubled since it was last told which groups are still used."""
        return self._dictionary is not None and self._dictionary.wants_retain

    def retain(self, ids: Ints) -> None:
        """Drop all groups but these."""
        assert self._dictionary is not None
        self._dictionary.retain(ids)

    @property
    def bytes(self) -> int:
        return self._dictionary.bytes if self._dictionary else 0


def _one_zero(name: str) -> pl.Expr:
    # Polars takes `+ 0.0` away.
    return pl.when(pl.col(name) == 0).then(0.0).otherwise(pl.col(name)).alias(name)
