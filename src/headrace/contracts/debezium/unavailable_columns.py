"""Debezium's stand-ins for values that the database did not log, found in whole columns.

Owns `unavailable_rows`: for columns what `UnavailableValues` is for single values.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.debezium.unavailable import UnavailableValues

Rows = npt.NDArray[np.bool_]


def unavailable_rows(column: pa.ChunkedArray | pa.Array, values: UnavailableValues) -> Rows:
    """Which rows hold a stand-in. Types that no connector writes one in have none."""
    types, of = pa.types, column.type
    if types.is_string(of) or types.is_large_string(of):
        return _is_in(column, sorted(values.texts))
    if types.is_binary(of) or types.is_large_binary(of):
        return _is_in(column, [values.bytes])
    if types.is_map(of):
        return _found(column, 1, lambda array: _is_map(array, values))
    if types.is_list(of) and types.is_string(of.value_type):
        return _found(column, 1, lambda array: _is_in(pc.list_flatten(array), list(values.items)))
    if types.is_list(of) and (types.is_integer(of.value_type) or types.is_floating(of.value_type)):
        return _found(column, len(values.codes), lambda array: _is_numbers(array, values.codes))
    return np.zeros(len(column), dtype=bool)


def _is_in(column: pa.ChunkedArray | pa.Array, texts: list[str] | list[bytes]) -> Rows:
    return _plain(pc.is_in(column, value_set=pa.array(texts, column.type)))


def _found(column: pa.ChunkedArray | pa.Array, length: int, told: Callable[[pa.Array], Rows]) -> Rows:
    """Rows of so many items of which `told` says that they are a stand-in."""
    found = np.zeros(len(column), dtype=bool)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    is_long = np.diff(array.offsets.to_numpy()) == length
    rows = np.flatnonzero(is_long & _plain(array.is_valid()))
    if len(rows):
        found[rows] = told(array.take(pa.array(rows)))
    return found


def _is_numbers(array: pa.ListArray, codes: list[int]) -> Rows:
    items = pc.fill_null(pc.list_flatten(array).cast(pa.float64()), np.nan)
    numbers = items.to_numpy(zero_copy_only=False).reshape(len(array), len(codes))
    equal: Rows = (numbers == np.array(codes, dtype=np.float64)).all(axis=1)
    return equal


def _is_map(array: pa.MapArray, values: UnavailableValues) -> Rows:
    if not pa.types.is_string(array.type.item_type):
        return np.zeros(len(array), dtype=bool)
    return _is_in(array.keys, [values.text]) & _is_in(array.items, [values.text])


def _plain(mask: pa.ChunkedArray | pa.Array) -> Rows:
    plain: Rows = np.asarray(mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(False), dtype=bool)
    return plain
