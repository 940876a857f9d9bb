"""Taking nested Arrow arrays apart and putting them together.

Owns the handling of offsets, slices and validity, so that nobody else looks at buffers of lists and structs.

- What comes out of a null list or struct is never read: nulls own no items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def null_mask(array: pa.Array) -> Mask | None:
    """True where the array is null, or its dictionary is; None when it never is."""
    has_null_entry = pa.types.is_dictionary(array.type) and array.dictionary.null_count > 0
    if array.null_count == 0 and not has_null_entry:
        return None
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)


def list_parts(array: pa.Array) -> tuple[Offsets, pa.Array]:
    """Offsets starting at 0 and the items they cut, of any kind of list; null lists are empty."""
    items = array.flatten()
    lengths = np.asarray(array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    return offsets_of(lengths), items


def map_parts(array: pa.MapArray) -> tuple[Offsets, pa.Array, pa.Array]:
    """Offsets starting at 0, the keys and the values; null maps are empty."""
    raw = np.asarray(array.offsets.to_numpy(zero_copy_only=False), dtype=np.int64)
    first, last = (int(raw[0]), int(raw[-1])) if len(raw) else (0, 0)
    # Of a slice, and of a map whose offsets do not begin at 0, `keys` and `items` are still all there are.
    keys, items = (each.slice(first, last - first) for each in (array.keys, array.items))
    entries = pa.StructArray.from_arrays([keys, items], names=["key", "value"])
    return _without_null_items(raw - first, entries, null_mask(array))


def _without_null_items(
    offsets: Offsets, entries: pa.StructArray, nulls: Mask | None
) -> tuple[Offsets, pa.Array, pa.Array]:
    lengths = np.diff(offsets)
    if nulls is not None and lengths[nulls].any():
        entries = entries.filter(pa.array(np.repeat(~nulls, lengths)))
        lengths = np.where(nulls, 0, lengths)
        offsets = offsets_of(lengths)
    return offsets, entries.field(0), entries.field(1)


def without_views(table: pa.Table) -> pa.Table:
    """The table with text and binary in place of views of them, which many of Arrow's functions do not take."""
    for index, column in enumerate(table.columns):
        if _has_views(column.type):
            wanted = _without_views(column.type)
            table = table.set_column(index, table.field(index).with_type(wanted), column.cast(wanted))
    return table


def _has_views(arrow: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(arrow):
        return _has_views(arrow.value_type)
    is_view = types.is_string_view(arrow) or types.is_binary_view(arrow)
    return is_view or any(_has_views(arrow.field(index).type) for index in range(arrow.num_fields))


def _without_views(arrow: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_string_view(arrow) or types.is_binary_view(arrow):
        return pa.large_string() if types.is_string_view(arrow) else pa.large_binary()
    if types.is_dictionary(arrow):
        return pa.dictionary(arrow.index_type, _without_views(arrow.value_type), arrow.ordered)
    if types.is_struct(arrow):
        return pa.struct([_field_without_views(each) for each in arrow])
    if types.is_map(arrow):
        return pa.map_(_field_without_views(arrow.key_field), _field_without_views(arrow.item_field))
    if types.is_fixed_size_list(arrow):
        return pa.list_(_field_without_views(arrow.value_field), arrow.list_size)
    if types.is_list(arrow) or types.is_large_list(arrow):
        make = pa.list_ if types.is_list(arrow) else pa.large_list
        return make(_field_without_views(arrow.value_field))
    return arrow


def _field_without_views(field: pa.Field) -> pa.Field:
    return field.with_type(_without_views(field.type))


def offsets_of(lengths: npt.NDArray[np.int64]) -> Offsets:
    """Running sums, one longer than `lengths`, starting at 0."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def list_array(offsets: Offsets, items: pa.Array, list_type: pa.DataType, nulls: Mask | None) -> pa.Array:
    """A list array; `nulls` marks null lists."""
    mask = pa.array(nulls) if nulls is not None and nulls.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items, type=list_type, mask=mask)


def map_array(
    offsets: Offsets, keys: pa.Array, values: pa.Array, map_type: pa.DataType, nulls: Mask | None
) -> pa.Array:
    """A map array; `nulls` marks null maps."""
    entries = pa.StructArray.from_arrays([keys, values], fields=[map_type.key_field, map_type.item_field])
    as_list = list_array(offsets, entries, pa.list_(pa.field("entries", entries.type, nullable=False)), nulls)
    buffers = as_list.buffers()[:2]
    return pa.Array.from_buffers(map_type, len(as_list), buffers, children=[entries])


def struct_array(children: Sequence[pa.Array], struct_type: pa.StructType, length: int, nulls: Mask | None) -> pa.Array:
    """A struct array; `nulls` marks null structs. `length` counts for a struct without fields."""
    mask = pa.array(nulls) if nulls is not None and nulls.any() else None
    if not children:
        return pa.Array.from_buffers(struct_type, length, [validity(nulls)])
    return pa.StructArray.from_arrays(list(children), fields=list(struct_type), mask=mask)


def struct_children(array: pa.StructArray) -> list[pa.Array]:
    """The children of a struct array, null where the struct is."""
    if array.null_count:
        return list(array.flatten())
    return [array.field(index) for index in range(array.type.num_fields)]


def validity(nulls: Mask | None) -> pa.Buffer | None:
    """The validity bitmap of an array whose nulls are these."""
    return None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little").tobytes())
