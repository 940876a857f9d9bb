"""PostgreSQL's types, as far as their text must be read.

Owns `PgType`, how the catalogue's rows become one, and the Avro type that stands for it in an inferred contract.

- A domain is its base type; an enum is text with known labels.
- A type that is not known here (composites, ranges, geometric types but points, what extensions bring) is its text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

NUMERIC_PRECISION_MAX = 1_000
DECIMAL_PRECISION_MAX = 76
"""Of columns; a number of more digits is text."""
DOMAIN_DEPTH_MAX = 32
MONEY_PRECISION, MONEY_SCALE = 19, 2


class Family(Enum):
    """How a type's text is read."""

    BOOL = auto()
    INT = auto()
    FLOAT = auto()
    NUMERIC = auto()
    MONEY = auto()
    TEXT = auto()
    BYTEA = auto()
    DATE = auto()
    TIME = auto()
    TIMETZ = auto()
    TIMESTAMP = auto()
    TIMESTAMPTZ = auto()
    INTERVAL = auto()
    UUID = auto()
    BITS = auto()
    ARRAY = auto()
    HSTORE = auto()
    POINT = auto()
    VECTOR = auto()


@dataclass(frozen=True, slots=True)
class PgType:
    """One type, domains resolved."""

    name: str
    family: Family = Family.TEXT
    element: PgType | None = None
    """Of an array."""
    precision: int | None = None
    """Of a numeric that says it."""
    scale: int = 0
    length: int | None = None
    """Of `bit(n)`."""
    delimiter: str = ","

    def __str__(self) -> str:
        return f"{self.element}[]" if self.element else self.name


FAMILIES: Mapping[str, Family] = {
    "bool": Family.BOOL,
    **dict.fromkeys(("int2", "int4", "int8", "oid", "xid", "cid", "xid8"), Family.INT),
    **dict.fromkeys(("float4", "float8"), Family.FLOAT),
    "numeric": Family.NUMERIC,
    "money": Family.MONEY,
    "bytea": Family.BYTEA,
    "date": Family.DATE,
    "time": Family.TIME,
    "timetz": Family.TIMETZ,
    "timestamp": Family.TIMESTAMP,
    "timestamptz": Family.TIMESTAMPTZ,
    "interval": Family.INTERVAL,
    "uuid": Family.UUID,
    **dict.fromkeys(("bit", "varbit"), Family.BITS),
    "point": Family.POINT,
}
"""Of `pg_catalog`; every other type there is text."""
EXTENSION_FAMILIES: Mapping[str, Family] = {"hstore": Family.HSTORE, "vector": Family.VECTOR, "halfvec": Family.VECTOR}
"""Of types that extensions bring, in whatever schema."""
_NO_ARRAYS = ("int2vector", "oidvector")
"""Of the arrays' category, written without braces."""

CATALOGUE_QUERY = """
SELECT t.oid::bigint, n.nspname, t.typname, t.typtype, t.typcategory, t.typelem::bigint, t.typbasetype::bigint,
       t.typtypmod, t.typdelim
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = ANY($1::oid[])
"""


@dataclass(frozen=True, slots=True)
class CatalogueType:
    """A row of `pg_type`."""

    oid: int
    schema: str
    name: str
    kind: str
    category: str
    element: int
    base: int
    modifier: int
    delimiter: str


class TypeCatalogue:
    """Types by oid. `fetch` asks the server; an oid that it does not know (any more) is text."""

    def __init__(self, fetch: Callable[[Sequence[int]], Sequence[CatalogueType]]) -> None:
        self._fetch = fetch
        self._known: dict[int, CatalogueType | None] = {}

    def load(self, oids: Sequence[int]) -> None:
        """Learn about these, their elements and bases, in as few questions as that takes."""
        wanted = set(oids) - self._known.keys()
        for _ in range(DOMAIN_DEPTH_MAX):
            if not wanted:
                return
            self._known.update(dict.fromkeys(wanted))
            found = self._fetch(sorted(wanted))
            self._known.update((each.oid, each) for each in found)
            wanted = {oid for each in found for oid in (each.element, each.base) if oid} - self._known.keys()

    def resolve(self, oid: int, modifier: int = -1) -> PgType:
        """The type of a column."""
        self.load([oid])
        return self._resolved(oid, modifier, DOMAIN_DEPTH_MAX)

    def _resolved(self, oid: int, modifier: int, depth: int) -> PgType:
        row = self._known.get(oid)
        if row is None or depth == 0:
            return PgType(f"type {oid}")
        if row.kind == "d":
            return self._resolved(row.base, row.modifier if modifier < 0 else modifier, depth - 1)
        if row.category == "A" and row.element and row.name not in _NO_ARRAYS:
            element = self._resolved(row.element, modifier, depth - 1)
            delimiter = self._known[row.element]
            return PgType(row.name, Family.ARRAY, element, delimiter="," if delimiter is None else delimiter.delimiter)
        return _with_modifier(named_type(row.name, row.schema), modifier)


def named_type(name: str, schema: str = "pg_catalog") -> PgType:
    """A type without modifier, by its name in `pg_type`."""
    known = FAMILIES if schema == "pg_catalog" else EXTENSION_FAMILIES
    return PgType(name, known.get(name, Family.TEXT))


def _with_modifier(found: PgType, modifier: int) -> PgType:
    if found.family is Family.NUMERIC and modifier >= 4:
        # Precision in the upper half, an eleven-bit signed scale in the lower.
        packed = modifier - 4
        scale = ((packed & 0x7FF) ^ 1024) - 1024
        return replace(found, precision=packed >> 16 & 0xFFFF, scale=scale)
    if found.family is Family.BITS and modifier > 0:
        return replace(found, length=modifier)
    return found


_INFERRED: Mapping[Family, Any] = {
    Family.BOOL: "boolean",
    Family.TEXT: "string",
    Family.BYTEA: "bytes",
    Family.DATE: {"type": "int", "logicalType": "date"},
    Family.TIME: {"type": "long", "logicalType": "time-micros"},
    Family.TIMETZ: "string",
    Family.TIMESTAMP: {"type": "long", "logicalType": "local-timestamp-micros"},
    Family.TIMESTAMPTZ: {"type": "long", "logicalType": "timestamp-micros"},
    Family.INTERVAL: "string",
    Family.UUID: {"type": "string", "logicalType": "uuid"},
    Family.BITS: "string",
    Family.MONEY: {"type": "bytes", "logicalType": "decimal", "precision": MONEY_PRECISION, "scale": MONEY_SCALE},
    Family.HSTORE: {"type": "map", "values": ["null", "string"]},
    Family.VECTOR: {"type": "array", "items": "float"},
}


def inferred_avro_type(found: PgType, path: str) -> Any:
    """The Avro type that a contract made from the table gives to a column; `path` names records inside."""
    if found.family is Family.INT:
        return "int" if found.name in ("int2", "int4") else "long"
    if found.family is Family.FLOAT:
        return "float" if found.name == "float4" else "double"
    if found.family is Family.NUMERIC:
        if found.precision is None or not 0 <= found.scale <= found.precision <= DECIMAL_PRECISION_MAX:
            return "string"
        return {"type": "bytes", "logicalType": "decimal", "precision": found.precision, "scale": found.scale}
    if found.family is Family.BITS and found.name == "bit" and found.length == 1:
        return "boolean"
    if found.family is Family.ARRAY:
        assert found.element is not None
        return {"type": "array", "items": ["null", inferred_avro_type(found.element, path)]}
    if found.family is Family.POINT:
        fields = [{"name": name, "type": "double"} for name in ("x", "y")]
        return {"type": "record", "name": re.sub(r"\W", "_", f"{path}_point", flags=re.ASCII), "fields": fields}
    return _INFERRED[found.family]
