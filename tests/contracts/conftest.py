"""Random Avro schemas and values, for the tests of this room.

Owns `avro_types`: a strategy of Avro types, each with values in two notations: as fastavro writes them when no type has
a logical type, and as the columns should show them.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st
from tests.contracts.ways import needs_native

from headrace.contracts import fastavro_codec, key

SAMPLE_NAMES = ("a", "b", "c", "d", "e", "f")


@dataclass(frozen=True)
class AvroType:
    """A type: its JSON, its JSON without logical types, and its values as (raw, shown) pairs."""

    node: Any
    stripped: Any
    values: st.SearchStrategy[tuple[Any, Any]]


def same(node: Any, values: st.SearchStrategy[Any]) -> AvroType:
    return AvroType(node, node, values.map(lambda value: (value, value)))


def float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


INTS = st.integers(-(2**31), 2**31 - 1)
LONGS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-200, 200))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
DOUBLES = st.floats(allow_nan=False)

PRIMITIVES = [
    same("boolean", st.booleans()),
    same("int", INTS),
    same("long", LONGS),
    same("float", st.floats(width=32, allow_nan=False)),
    same("double", DOUBLES),
    same("bytes", st.binary(max_size=8)),
    same("string", TEXTS),
]


def integer_logical(base: str, logical: str, low: int, high: int) -> AvroType:
    values = st.integers(low, high).map(lambda value: (value, value))
    return AvroType({"type": base, "logicalType": logical}, base, values)


TEMPORAL = [
    integer_logical("int", "date", -(2**31), 2**31 - 1),
    integer_logical("int", "time-millis", 0, 86_399_999),
    integer_logical("long", "time-micros", 0, 86_399_999_999),
    *(
        integer_logical("long", f"{prefix}timestamp-{unit}", -(2**63), 2**63 - 1)
        for prefix in ("", "local-")
        for unit in ("millis", "micros", "nanos")
    ),
]


def twos_complement(value: int, size: int | None) -> bytes:
    if size is None:
        size = ((value if value >= 0 else ~value).bit_length()) // 8 + 1
    return value.to_bytes(size, "big", signed=True)


def decimal_type(precision: int, scale: int, size: int | None, name: str) -> AvroType:
    stripped: Any = "bytes" if size is None else {"type": "fixed", "name": name, "size": size}
    base = {"type": "bytes"} if size is None else stripped
    node = {**base, "logicalType": "decimal", "precision": precision, "scale": scale}

    def pair(value: int) -> tuple[bytes, Any]:
        digits = str(abs(value)).rjust(scale + 1, "0")
        text = ("-" if value < 0 else "") + (f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits)
        return twos_complement(value, size), text if precision > 76 else Decimal(text)

    bound = 10**precision - 1
    return AvroType(
        node, stripped, st.one_of(st.integers(-bound, bound), st.integers(max(-bound, -300), min(bound, 300))).map(pair)
    )


def decimals(name: Callable[[], str]) -> st.SearchStrategy[AvroType]:
    def build(precision: int, scale: int, is_fixed: bool) -> AvroType:
        size = next(n for n in itertools.count(1) if 2 ** (8 * n - 1) > 10**precision) if is_fixed else None
        # Room to spare, so that signs are extended.
        return decimal_type(precision, min(scale, precision), size + 2 if size else None, name())

    return st.builds(build, st.sampled_from([1, 5, 9, 18, 19, 38, 39, 76, 80]), st.integers(0, 30), st.booleans())


def uuid_types(name: Callable[[], str]) -> st.SearchStrategy[AvroType]:
    def fixed() -> AvroType:
        stripped = {"type": "fixed", "name": name(), "size": 16}
        return AvroType({**stripped, "logicalType": "uuid"}, stripped, st.uuids().map(lambda u: (u.bytes, str(u))))

    text = AvroType({"type": "string", "logicalType": "uuid"}, "string", st.uuids().map(lambda u: (str(u), str(u))))
    return st.one_of(st.just(text), st.builds(fixed))


def duration_type(name: str) -> AvroType:
    stripped = {"type": "fixed", "name": name, "size": 12}
    parts = st.tuples(*[st.integers(0, 2**32 - 1)] * 3)
    shown = ("months", "days", "milliseconds")
    values = parts.map(lambda p: (struct.pack("<III", *p), dict(zip(shown, p, strict=True))))
    return AvroType({**stripped, "logicalType": "duration"}, stripped, values)


def fixed_type(name: str, size: int) -> AvroType:
    return same({"type": "fixed", "name": name, "size": size}, st.binary(min_size=size, max_size=size))


def enum_type(name: str, symbols: list[str]) -> AvroType:
    return same({"type": "enum", "name": name, "symbols": symbols}, st.sampled_from(symbols))


def array_type(item: AvroType) -> AvroType:
    values = st.lists(item.values, max_size=4).map(lambda pairs: ([p[0] for p in pairs], [p[1] for p in pairs]))
    return AvroType({"type": "array", "items": item.node}, {"type": "array", "items": item.stripped}, values)


def map_type(value: AvroType) -> AvroType:
    def pair(items: dict[str, tuple[Any, Any]]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        return {key: each[0] for key, each in items.items()}, [(key, each[1]) for key, each in items.items()]

    values = st.dictionaries(TEXTS, value.values, max_size=4).map(pair)
    return AvroType({"type": "map", "values": value.node}, {"type": "map", "values": value.stripped}, values)


def record_type(name: str, members: list[AvroType]) -> AvroType:
    names = SAMPLE_NAMES[: len(members)]

    def pair(pairs: tuple[tuple[Any, Any], ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        raw = {each: p[0] for each, p in zip(names, pairs, strict=True)}
        return raw, {each: p[1] for each, p in zip(names, pairs, strict=True)}

    def node(types: list[Any]) -> dict[str, Any]:
        fields = [{"name": each, "type": member} for each, member in zip(names, types, strict=True)]
        return {"type": "record", "name": name, "fields": fields}

    values = st.tuples(*(member.values for member in members)).map(pair)
    return AvroType(node([m.node for m in members]), node([m.stripped for m in members]), values)


def type_name(node: Any) -> str:
    if isinstance(node, str):
        return node
    return node["name"] if node["type"] in ("record", "enum", "fixed") else node["type"]


def nullable_type(inner: AvroType, null_first: bool) -> AvroType:
    def order(branch: Any) -> list[Any]:
        return ["null", branch] if null_first else [branch, "null"]

    # fastavro is told the branch: guessing it fails for a value that holds another union.
    values = inner.values.map(lambda pair: ((type_name(inner.stripped), pair[0]), pair[1]))
    return AvroType(order(inner.node), order(inner.stripped), st.one_of(st.just((None, None)), values))


def union_type(members: list[AvroType], with_null: bool) -> AvroType:
    unique = {type_name(member.stripped): member for member in members}
    names = list(unique)

    def branch(name: str) -> st.SearchStrategy[tuple[Any, Any]]:
        shown = dict.fromkeys(names)
        return unique[name].values.map(lambda pair: ((name, pair[0]), {**shown, name: pair[1]}))

    values = st.one_of(*(branch(name) for name in names))
    nulls: list[Any] = ["null"] if with_null else []
    if with_null and len(unique) == 1:
        return nullable_type(members[-1], null_first=False)
    if with_null:
        values = st.one_of(st.just((None, None)), values)
    return AvroType([m.node for m in unique.values()] + nulls, [m.stripped for m in unique.values()] + nulls, values)


def avro_type_strategy(name: Callable[[], str]) -> st.SearchStrategy[AvroType]:
    """Any type but a bare union inside a union; named types take their names from `name`."""
    symbols = st.lists(st.sampled_from(["A", "B", "C", "D"]), min_size=1, unique=True)
    leaves = st.one_of(
        st.sampled_from(PRIMITIVES),
        st.sampled_from(TEMPORAL),
        st.deferred(lambda: decimals(name)),
        st.deferred(lambda: uuid_types(name)),
        st.builds(lambda: duration_type(name())),
        st.builds(lambda size: fixed_type(name(), size), st.integers(0, 5)),
        st.builds(lambda s: enum_type(name(), s), symbols),
        st.just(same("null", st.none())),
    )

    def nested(children: st.SearchStrategy[AvroType]) -> st.SearchStrategy[AvroType]:
        no_union = children.filter(lambda t: not isinstance(t.node, list) and t.node != "null")
        return st.one_of(
            st.builds(array_type, children),
            st.builds(map_type, children),
            st.builds(lambda members: record_type(name(), members), st.lists(children, max_size=4)),
            st.builds(nullable_type, no_union, st.booleans()),
            st.builds(union_type, st.lists(no_union, min_size=1, max_size=3), st.booleans()),
        )

    return st.recursive(leaves, nested, max_leaves=6)


@st.composite
def record_strategy(draw: st.DrawFn) -> AvroType:
    counter = itertools.count()
    members = draw(st.lists(avro_type_strategy(lambda: f"T{next(counter)}"), min_size=1, max_size=5))
    return record_type("Root", members)


@pytest.fixture(params=["python", pytest.param("native", marks=needs_native)])
def each_writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs that begin to encode in the test write in Python, and in another run with the compiled writer."""
    if request.param == "python":
        monkeypatch.setattr(fastavro_codec, "native", None)
        monkeypatch.setattr(key, "native", None)


@pytest.fixture(scope="session")
def avro_records() -> st.SearchStrategy[AvroType]:
    """Random record types with their values."""
    return record_strategy()


def shown(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column as Python values, with integers for dates and times."""
    if isinstance(array, pa.ChunkedArray):
        return [value for chunk in array.chunks for value in shown(chunk)]
    types = pa.types
    valid = array.is_valid().to_pylist()
    if types.is_date32(array.type) or types.is_time32(array.type):
        return array.view(pa.int32()).to_pylist()
    if types.is_timestamp(array.type) or types.is_time64(array.type):
        return array.view(pa.int64()).to_pylist()
    if types.is_struct(array.type):
        names = [field.name for field in array.type]
        columns = [shown(array.field(index)) for index in range(len(names))]
        rows = zip(*columns, strict=True) if columns else ([()] * len(array))
        return [dict(zip(names, row, strict=True)) if ok else None for row, ok in zip(rows, valid, strict=True)]
    if types.is_map(array.type):
        pairs = list(zip(shown(array.keys), shown(array.items), strict=True))
        return _cut(array, pairs, valid)
    if types.is_list(array.type):
        return _cut(array, shown(array.values), valid)
    return array.to_pylist()


def _cut(array: Any, items: list[Any], valid: list[bool]) -> list[Any]:
    ends = array.offsets.to_pylist()
    base = 0 if pa.types.is_list(array.type) else ends[0] - ends[0]
    return [
        items[start - base : end - base] if ok else None
        for (start, end), ok in zip(itertools.pairwise(ends), valid, strict=True)
    ]


@pytest.fixture(scope="session")
def as_python() -> Callable[[Any], list[Any]]:
    """A column as Python values, with integers for dates and times."""
    return shown
