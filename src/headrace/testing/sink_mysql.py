"""What a table of MySQL or MariaDB holds, as Arrow, for tests of egress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pymysql

from headrace.ingress.cdc.mysql.connection import settings_of
from headrace.testing.sink_types import json_column

_MIDNIGHT = datetime(1970, 1, 1, tzinfo=UTC)


def make_database(url: str, folder: Path) -> str:
    """The URL of a database that is this test's own."""
    name = "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    with pymysql.connect(**settings_of(url)) as connection, connection.cursor() as cursor:
        # Looked for first: MySQL lets `IF NOT EXISTS` wait for all transactions in the database.
        if not cursor.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", [name]):
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}`")
    return f"{url}/{name}"


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement in the database of the URL."""
    settings = {**settings_of(url), "database": url.rpartition("/")[2], "autocommit": True, "charset": "utf8mb4"}
    with pymysql.connect(**settings) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def read_table(url: str, utc: frozenset[str] = frozenset(), table: str = "target") -> pa.Table:
    """All rows; `utc` names the columns whose times are instants."""
    name = url.rpartition("/")[2]
    # MariaDB's type of JSON is text with a check; MySQL lists no check by its table, and needs none for this.
    has_tables = execute(
        url,
        "SELECT 1 FROM information_schema.columns WHERE table_schema = 'information_schema'"
        " AND table_name = 'CHECK_CONSTRAINTS' AND column_name = 'TABLE_NAME'",
    )
    checks = (
        "SELECT check_clause FROM information_schema.check_constraints k WHERE k.constraint_schema = c.table_schema"
        " AND k.table_name = c.table_name AND k.constraint_name = c.column_name"
    )
    listed = execute(
        url,
        f"SELECT c.column_name, c.column_type, ({checks if has_tables else 'NULL'})"
        " FROM information_schema.columns c"
        f" WHERE c.table_schema = '{name}' AND c.table_name = '{table}' ORDER BY c.ordinal_position",
    )
    rows = execute(url, f"SELECT {', '.join(f'`{row[0]}`' for row in listed)} FROM `{table}`")
    values: Mapping[str, Any] = dict(
        zip([row[0] for row in listed], zip(*rows, strict=True) if rows else [()] * len(listed), strict=True)
    )
    columns = {}
    for column, kind, check in listed:
        if kind == "json" or "json_valid" in (check or ""):
            columns[column] = json_column(values[column], column)
        else:
            convert = _converter(kind, is_utc=column in utc)
            columns[column] = pa.array([None if value is None else convert(value) for value in values[column]])
    return pa.table(columns)


def _converter(kind: str, *, is_utc: bool) -> Callable[[Any], Any]:
    if kind == "tinyint(1)":
        return bool
    if kind.startswith("time("):
        return lambda value: (_MIDNIGHT + value).time() if isinstance(value, timedelta) else value
    if kind.startswith("datetime") and is_utc:
        return lambda value: value.replace(tzinfo=UTC)
    return lambda value: value
