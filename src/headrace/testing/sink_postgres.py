"""What a table of PostgreSQL holds, as Arrow, for tests of egress."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg
import pyarrow as pa

from headrace.testing.sink_types import json_column

_DURATION = (
    "CASE WHEN {0} IS NOT NULL THEN jsonb_build_object('months', ("
    "extract(year FROM {0}) * 12 + extract(month FROM {0}))::int, 'days', extract(day FROM {0})::int,"
    " 'milliseconds', extract(milliseconds FROM {0})::int) END::text"
)
_READ = {"interval": _DURATION, "jsonb": "{0}::text", "uuid": "{0}::text"}


def schema_of(folder: Path) -> str:
    """A schema that is this test's own."""
    return "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def read_table(url: str, schema: str, table: str = "target") -> pa.Table:
    """All rows."""
    with psycopg.connect(url) as connection:
        columns: dict[str, str] = dict(
            connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s"
                " AND table_name = %s ORDER BY ordinal_position",
                [schema, table],
            ).fetchall()
        )
        selected = ", ".join(_READ.get(kind, "{0}").format(f'"{name}"') for name, kind in columns.items())
        rows = connection.execute(f'SELECT {selected} FROM "{schema}"."{table}"').fetchall()
    values = dict(zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True))
    return pa.table(
        {
            name: json_column(values[name], name) if columns[name] in ("jsonb", "interval") else pa.array(values[name])
            for name in columns
        }
    )
