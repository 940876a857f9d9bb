"""Reading values of a recursive type as Avro JSON.

Owns the interpreter of resolution steps that gives JSON; `column_reader` is its fast sibling that gives columns.
"""

from __future__ import annotations

from typing import Any

from headrace.contracts.binary.adapt import BadValue
from headrace.contracts.binary.json_value import JSON_DEPTH_MAX, json_float, json_text
from headrace.contracts.binary.primitives import (
    ZERO_SIZE_ITEMS_MAX,
    index_reader,
    read_count,
    read_string,
    scalar_reader,
)
from headrace.contracts.binary.resolution import (
    Array,
    AsJson,
    Default,
    Enumeration,
    Failing,
    Mapped,
    ReaderBranch,
    Record,
    Recursive,
    Scalar,
    Skipped,
    Step,
    WriterUnion,
)
from headrace.contracts.binary.skip import skip


def read_json(step: AsJson, data: bytes, position: int) -> tuple[str, int]:
    """A value as Avro JSON text, and the position after it."""
    value, position = _read(step.step, data, position, 0)
    return json_text(value), position


def _read(step: Step, data: bytes, position: int, depth: int) -> tuple[Any, int]:
    if isinstance(step, Scalar):
        value, position = scalar_reader(step.wire, step.size)(data, position)
        return _plain(step.adapt(value) if step.adapt else value), position
    if isinstance(step, Record):
        return _record(step, data, position, depth)
    if isinstance(step, (Array, Mapped)):
        return _blocks(step, data, position, depth)
    if isinstance(step, WriterUnion):
        index, position = index_reader(len(step.branches), "branch")(data, position)
        return _read(step.branches[index], data, position, depth)
    if isinstance(step, ReaderBranch):
        value, position = _read(step.step, data, position, depth)
        return (None if step.name == "null" else {step.name: value}), position
    if isinstance(step, Recursive):
        if depth > JSON_DEPTH_MAX:
            raise BadValue("invalid", f"nested deeper than {JSON_DEPTH_MAX}")
        assert step.step is not None, "resolution fills every recursion"
        return _read(step.step, data, position, depth + 1)
    if isinstance(step, Enumeration):
        index, position = index_reader(len(step.indexes), "symbol")(data, position)
        return step.symbol(index), position
    if isinstance(step, Failing):
        raise BadValue("schema_resolution", step.reason)
    raise AssertionError(f"no {type(step).__name__} inside JSON")


def _record(step: Record, data: bytes, position: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[int, Any] = {}
    for index, inner in step.fields:
        if isinstance(inner, Skipped):
            position = skip(inner.node, inner.names, data, position, depth)
        else:
            found[index], position = _read(inner, data, position, depth)
    for index, default in step.defaults:
        found[index] = _default(default, depth)
    return {name: found[index] for index, name in enumerate(step.names)}, position


def _default(default: Default, depth: int) -> Any:
    return _read(default.step, default.body, 0, depth)[0]


def _blocks(step: Array | Mapped, data: bytes, position: int, depth: int) -> tuple[Any, int]:
    items: list[Any] = []
    keys: list[str] = []
    is_map = isinstance(step, Mapped)
    inner, item_bytes_min = (step.value, 1) if isinstance(step, Mapped) else (step.item, step.item_bytes_min)
    while True:
        count, position = read_count(data, position, item_bytes_min)
        if count == 0:
            return (dict(zip(keys, items, strict=True)) if is_map else items), position
        if not item_bytes_min and len(items) + count > ZERO_SIZE_ITEMS_MAX:
            raise BadValue("invalid", f"more than {ZERO_SIZE_ITEMS_MAX} items of no bytes")
        for _ in range(count):
            if is_map:
                key, position = read_string(data, position)
                keys.append(key)
            item, position = _read(inner, data, position, depth)
            items.append(item)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return json_float(value) if isinstance(value, float) else value
