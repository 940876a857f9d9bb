"""Tables of a MySQL or MariaDB database, as far as capture needs to know them.

Owns what is read from `information_schema`, the check of a table against its contract, and a contract made from one.

- A table without primary key, or whose engine has no transactions, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymysql.connections import Connection

from headrace.contracts.contract import Contract
from headrace.errors import Where
from headrace.ingress.cdc import mapping
from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.mysql.cell_columns import unmapped
from headrace.ingress.cdc.mysql.connection import connect, database_of, quoted, rows
from headrace.ingress.cdc.mysql.types import Family, MysqlType, declared_type, inferred_avro_type
from headrace.ingress.cdc.table import check_key

_TABLE = """
SELECT t.table_type, t.engine, e.transactions FROM information_schema.tables t
LEFT JOIN information_schema.engines e ON e.engine = t.engine WHERE t.table_schema = %s AND t.table_name = %s
"""
_COLUMNS = """
SELECT c.column_name, c.column_type, c.is_nullable, c.character_set_name, c.collation_name, coalesce(k.seq_in_index, 0)
FROM information_schema.columns c
LEFT JOIN information_schema.statistics k ON k.table_schema = c.table_schema AND k.table_name = c.table_name
  AND k.column_name = c.column_name AND k.index_name = 'PRIMARY'
WHERE c.table_schema = %s AND c.table_name = %s ORDER BY c.ordinal_position
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `key_position` counts from 1; 0 for columns outside the primary key."""

    name: str
    type: MysqlType
    declared: str
    is_nullable: bool
    charset: str | None
    collation: str | None
    key_position: int


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table with a primary key."""

    schema: str
    name: str
    columns: tuple[Column, ...]

    @property
    def key_columns(self) -> tuple[Column, ...]:
        chosen = [each for each in self.columns if each.key_position]
        return tuple(sorted(chosen, key=lambda each: each.key_position))

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.key_columns)

    @property
    def quoted(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def types(self) -> dict[str, MysqlType]:
        return {each.name: each.type for each in self.columns}


def split_name(table: str, database: str) -> tuple[str, str]:
    """Schema and name of `schema.table`, or of a table in the database of the URL."""
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else (database, table)


def read_table(connection: Connection, table: str, database: str, *, where: Where | None = None) -> SourceTable:
    """The table `table`. Raises `SourceInvalid`."""
    schema, name = split_name(table, database)
    if not schema:
        cure = "write `database.table`, or name the database in the URL: mysql://user@host/database"
        raise SourceInvalid(f"table {table!r} is in no database", where=where, cure=cure)
    found = rows(connection, _TABLE, (schema, name))
    if not found or found[0][0] != "BASE TABLE":
        what = "no such table, or no right to SELECT it" if not found else f"it is a {found[0][0].lower()}"
        raise SourceInvalid(f"table {table!r}: {what}", where=where, cure="name a table of the database")
    _, engine, transactions = found[0]
    if transactions != "YES":
        raise SourceInvalid(
            f"table {table!r} has the engine {engine}, which has no transactions",
            where=where,
            cure=f"ALTER TABLE {quoted(schema)}.{quoted(name)} ENGINE = InnoDB",
        )
    columns = tuple(
        Column(column, declared_type(declared), declared, nullable == "YES", charset, collation, int(position))
        for column, declared, nullable, charset, collation, position in rows(connection, _COLUMNS, (schema, name))
    )
    read = SourceTable(schema, name, columns)
    if not read.key:
        cure = "give it one: changes are keyed by it"
        raise SourceInvalid(f"table {table!r} has no primary key", where=where, cure=cure)
    listed = ", ".join(quoted(each) for each in read.key)
    rows(connection, f"SELECT {listed} FROM {read.quoted} LIMIT 0")  # Whether it may be read.
    return read


def check_contract(table: SourceTable, contract: Contract) -> None:
    """Raises `SourceInvalid` where the contract asks for what the table does not have."""
    name = f"{table.schema}.{table.name}"
    mapping.check_mapping(name, table.types, contract, unmapped)
    check_key(table.name, table.key, contract)


def infer_contract(database: str, table: str, *, topic: str | None = None) -> Contract:
    """The contract of the topic `topic` (None: the table's name) with all columns of a table.

    Raises `SourceInvalid`, `SourceUnavailable`.
    """
    connection = connect(database)
    try:
        found = read_table(connection, table, database_of(database))
    finally:
        connection.close()
    without = next((each for each in found.columns if each.type.family is Family.UNMAPPED), None)
    if without is not None:
        raise SourceInvalid(
            f"column {without.name!r} of table {table!r} is of type {without.type}, which has no mapping",
            cure="write the contract by hand, without this column",
        )
    fields = [
        (each.name, inferred_avro_type(each.type, each.name), each.is_nullable and not each.key_position)
        for each in found.columns
    ]
    return mapping.contract_of_table(table, fields, found.key, topic=topic)
