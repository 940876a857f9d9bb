"""What rows can be grouped and keyed by.

Owns the types that cannot tell groups apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from headrace.flow.columns import dtype_of
from headrace.flow.errors import TypeClash
from headrace.flow.values import Column, Place

_GROUP_TYPES_REFUSED = (pl.List, pl.Array, pl.Struct, pl.Float32, pl.Float64, pl.Binary)


def check_group_types(group: Sequence[Column], place: Place) -> None:
    """Refuse columns that cannot tell groups apart, or be part of a key."""
    for column in group:
        dtype = dtype_of(column)
        if isinstance(dtype, _GROUP_TYPES_REFUSED):
            cure = "cast it to a whole number or to text" if dtype.is_float() else "make text or a number of it first"
            raise TypeClash(f"cannot group by {column.name!r}: {dtype} is no key", place=place, cure=cure)
