"""MySQL's and MariaDB's types, as far as their cells must be read.

Owns `MysqlType`, how the catalogue's `COLUMN_TYPE` becomes one, and the Avro type that stands for it in an inferred
contract. `table_map` makes the same types of what the binary log tells.

- Two types are equal when their cells are read alike: display widths and lengths of text are left out.
- A type that has no mapping is `UNMAPPED`: a contract that asks for such a column is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

DECIMAL_PRECISION_MAX = 65
"""Of the server."""


class Family(Enum):
    """How a type's cells are read."""

    INT = auto()
    FLOAT = auto()
    NUMERIC = auto()
    BITS = auto()
    TEXT = auto()
    BYTES = auto()
    DATE = auto()
    TIME = auto()
    DATETIME = auto()
    TIMESTAMP = auto()
    UUID = auto()
    INET = auto()
    GEOMETRY = auto()
    UNMAPPED = auto()


@dataclass(frozen=True, slots=True)
class MysqlType:
    """One type."""

    name: str
    family: Family
    is_unsigned: bool = False
    precision: int | None = None
    """Of a decimal: its digits; of bit: its bits."""
    scale: int = 0
    labels: tuple[str, ...] = ()
    """Of enum and set."""

    def __str__(self) -> str:
        return f"{self.name} unsigned" if self.is_unsigned else self.name


_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint", "year")
_GEOMETRIES = (
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geometrycollection",
    "geomcollection",
)
FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(_INTEGERS, Family.INT),
    **dict.fromkeys(("float", "double"), Family.FLOAT),
    "decimal": Family.NUMERIC,
    "bit": Family.BITS,
    **dict.fromkeys(
        ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json"), Family.TEXT
    ),
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), Family.BYTES),
    "date": Family.DATE,
    "time": Family.TIME,
    "datetime": Family.DATETIME,
    "timestamp": Family.TIMESTAMP,
    "uuid": Family.UUID,
    **dict.fromkeys(("inet4", "inet6"), Family.INET),
    **dict.fromkeys(_GEOMETRIES, Family.GEOMETRY),
}
_DECLARED = re.compile(r"(\w+)(?:\((.*)\))?(.*)", re.DOTALL)
_LABEL = re.compile(r"'((?:[^']|'')*)'")


def declared_type(column_type: str) -> MysqlType:
    """The type of a `COLUMN_TYPE` of `information_schema.columns`."""
    found = _DECLARED.match(column_type)
    name = found.group(1).lower() if found else column_type
    given, rest = (found.group(2) or "", found.group(3).lower()) if found else ("", "")
    family = FAMILIES.get(name, Family.UNMAPPED)
    if "compressed" in rest:
        return MysqlType(f"{name} compressed", Family.UNMAPPED)
    if family is Family.GEOMETRY:
        return MysqlType("geometry", family)
    if name in ("enum", "set"):
        return MysqlType(name, family, labels=tuple(each.replace("''", "'") for each in _LABEL.findall(given)))
    if family is Family.NUMERIC:
        precision, _, scale = given.partition(",")
        return MysqlType(name, family, precision=int(precision), scale=int(scale or 0))
    if family is Family.BITS:
        return MysqlType(name, family, precision=int(given or 1))
    # Decimals and floats have no sign in their cells that would have to be told.
    return MysqlType(name, family, is_unsigned=family is Family.INT and name != "year" and "unsigned" in rest)


_INFERRED: Mapping[Family, Any] = {
    Family.TEXT: "string",
    Family.BYTES: "bytes",
    Family.DATE: {"type": "int", "logicalType": "date"},
    Family.TIME: "long",
    Family.DATETIME: {"type": "long", "logicalType": "local-timestamp-micros"},
    Family.TIMESTAMP: {"type": "long", "logicalType": "timestamp-micros"},
    Family.UUID: {"type": "string", "logicalType": "uuid"},
    Family.INET: "string",
}


def inferred_avro_type(found: MysqlType, path: str) -> Any:
    """The Avro type that a contract made from the table gives to a column; `path` names records inside."""
    if found.family is Family.INT:
        if found.name == "bigint" and found.is_unsigned:
            return {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0}
        return "long" if found.name == "bigint" or (found.name == "int" and found.is_unsigned) else "int"
    if found.family is Family.FLOAT:
        return "float" if found.name == "float" else "double"
    if found.family is Family.NUMERIC:
        assert found.precision is not None
        return {"type": "bytes", "logicalType": "decimal", "precision": found.precision, "scale": found.scale}
    if found.family is Family.BITS:
        return "boolean" if found.precision == 1 else "bytes"
    if found.family is Family.GEOMETRY:
        fields = [{"name": "wkb", "type": "bytes"}, {"name": "srid", "type": ["null", "int"], "default": None}]
        return {"type": "record", "name": f"{path}_geometry", "fields": fields}
    return _INFERRED[found.family]
