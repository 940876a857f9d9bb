"""A contract from a table's definition, as a start for its owner.

Owns the reading of SQLite's declared types; `headrace plan` shows the result where a table has no contract.

- A declared type is taken at its word; a column without one takes whatever SQLite can hold.
- A column is nullable unless the table says NOT NULL or it belongs to the key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.reader import connect
from headrace.ingress.cdc.table import Column, read_table

_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
_ANYTHING = ["long", "double", "string", "bytes"]
_RULES: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("BOOL",), "boolean"),
    (("DATETIME", "TIMESTAMP"), {"type": "long", "logicalType": "timestamp-micros"}),
    (("DATE",), {"type": "int", "logicalType": "date"}),
    (("UUID", "GUID"), {"type": "string", "logicalType": "uuid"}),
    (("INT",), "long"),
    (("CHAR", "CLOB", "TEXT", "JSON"), "string"),
    (("BLOB",), "bytes"),
    (("REAL", "FLOA", "DOUB", "NUMERIC", "DECIMAL"), "double"),
)
"""Words in a declared type, in the order in which they are looked for; the last four are SQLite's own affinities."""


def infer_contract(database: Path | str, table: str, *, topic: str | None = None) -> Contract:
    """The contract of the topic `topic` (None: the table's name) with all columns of a table.

    Raises `SourceInvalid`, `SourceUnavailable`.
    """
    connection = connect(Path(database))
    try:
        found = read_table(connection, table)
    finally:
        connection.close()
    wrong = next((column.name for column in found.columns if not _AVRO_NAME.fullmatch(column.name)), None)
    if wrong is not None:
        raise SourceInvalid(
            f"column {wrong!r} of table {table!r} has a name that Avro does not allow",
            cure="write the contract by hand, without this column, or rename the column",
        )
    name = re.sub(r"\W", "_", table, flags=re.ASCII)
    record = {
        "type": "record",
        "name": name if not name[:1].isdigit() else f"_{name}",
        "fields": [_field(column) for column in found.columns],
    }
    return Contract(
        topic=topic or table,
        schema=AvroSchema.parse(record),
        kind=TopicKind.CHANGE,
        key=found.key,
        description=f"Changes of the table {table}.",
    )


def _field(column: Column) -> dict[str, Any]:
    avro_type = _avro_type(column.declared.upper())
    if not column.is_nullable or column.key_position:
        return {"name": column.name, "type": avro_type}
    branches = avro_type if isinstance(avro_type, list) else [avro_type]
    return {"name": column.name, "type": ["null", *branches], "default": None}


def _avro_type(declared: str) -> Any:
    decimal = _DECIMAL.search(declared)
    if decimal is not None:
        precision, scale = int(decimal.group(1)), int(decimal.group(2) or 0)
        if precision > 0 and scale <= precision:
            return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
    for words, avro_type in _RULES:
        if any(word in declared for word in words):
            return avro_type
    return _ANYTHING
