"""Tables of a PostgreSQL database, as far as capture needs to know them.

Owns what is read from the catalogue, the check of a table against its contract, and a contract made from a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.contracts.contract import Contract
from headrace.errors import Where
from headrace.ingress.cdc import mapping
from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.postgres.connection import Connection, connect, translated
from headrace.ingress.cdc.postgres.text_columns import unmapped
from headrace.ingress.cdc.postgres.types import (
    CATALOGUE_QUERY,
    CatalogueType,
    PgType,
    TypeCatalogue,
    inferred_avro_type,
)
from headrace.ingress.cdc.table import check_key

DEFAULT_SCHEMA = "public"
KEY_ERRORS = "surrogateescape"
"""A database in SQL_ASCII may have text in a key that is no UTF-8: its bytes come back as they were."""

_TABLE = """
SELECT c.oid::bigint, c.relkind::text, c.relreplident::text, c.relpersistence::text,
       pg_relation_size(c.oid) / 8192
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""
_COLUMNS = """
SELECT a.attname, a.atttypid::bigint, a.atttypmod, a.attnotnull, a.attgenerated::text,
       format_type(a.atttypid, a.atttypmod), quote_ident(n.nspname) || '.' || quote_ident(l.collname),
       coalesce(array_position(i.indkey::int2[], a.attnum), -1)
FROM pg_attribute a
LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_KINDS = {"v": "a view", "m": "a materialised view", "f": "a foreign table", "i": "an index", "S": "a sequence"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `key_position` is -1 outside the primary key."""

    name: str
    type: PgType
    declared: str
    is_nullable: bool
    is_generated: bool
    key_position: int
    collation: str | None


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table with a primary key."""

    schema: str
    name: str
    oid: int
    replica_identity: str
    pages: int
    columns: tuple[Column, ...]

    @property
    def key(self) -> tuple[str, ...]:
        chosen = [each for each in self.columns if each.key_position >= 0]
        return tuple(each.name for each in sorted(chosen, key=lambda each: each.key_position))

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.column(name) for name in self.key)

    @property
    def quoted(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def column(self, name: str) -> Column:
        return next(each for each in self.columns if each.name == name)


def split_name(table: str) -> tuple[str, str]:
    """Schema and name of `schema.table`, or of a table in the default schema."""
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else (DEFAULT_SCHEMA, table)


def type_catalogue(connection: Connection) -> TypeCatalogue:
    """The types of a database."""

    def fetch(oids: Sequence[int]) -> list[CatalogueType]:
        with translated():
            rows = connection.execute(CATALOGUE_QUERY.replace("$1", "%s").encode(), (list(oids),)).fetchall()
        return [CatalogueType(*row) for row in rows]

    return TypeCatalogue(fetch)


def read_table(connection: Connection, types: TypeCatalogue, table: str, *, where: Where | None = None) -> SourceTable:
    """The table `table`. Raises `SourceInvalid`."""
    schema, name = split_name(table)
    with translated(where):
        found = connection.execute(_TABLE, (schema, name)).fetchone()
        rows = connection.execute(_COLUMNS, (found[0],)).fetchall() if found else []
    if found is None or found[1] not in ("r", "p"):
        what = "no such table" if found is None else f"it is {_KINDS.get(found[1], 'no table')}"
        raise SourceInvalid(f"table {table!r}: {what}", where=where, cure="name a table of the database")
    oid, _, identity, persistence, pages = found
    if persistence != "p":
        what = "is unlogged or temporary, and only what is logged can be followed"
        raise SourceInvalid(f"table {table!r} {what}", where=where, cure=f"ALTER TABLE {schema}.{name} SET LOGGED")
    types.load([row[1] for row in rows])
    columns = tuple(_column(types, row) for row in rows)
    read = SourceTable(schema, name, oid, identity, max(pages, 0), columns)
    if not read.key:
        cure = "give it one: changes are keyed by it"
        raise SourceInvalid(f"table {table!r} has no primary key", where=where, cure=cure)
    if identity not in ("d", "f"):
        raise SourceInvalid(
            f"table {table!r} has REPLICA IDENTITY {'NOTHING' if identity == 'n' else 'USING INDEX'},"
            " which does not tell the primary key of a deleted row",
            where=where,
            cure=f"ALTER TABLE {read.quoted} REPLICA IDENTITY DEFAULT",
        )
    return read


def _column(types: TypeCatalogue, row: tuple[Any, ...]) -> Column:
    name, type_oid, modifier, not_null, generated, declared, collation, position = row
    return Column(name, types.resolve(type_oid, modifier), declared, not not_null, generated != "", position, collation)


def check_contract(table: SourceTable, contract: Contract) -> None:
    """Raises `SourceInvalid` where the contract asks for what the table does not have."""
    known = {column.name: column for column in table.columns}
    check_mapping(f"{table.schema}.{table.name}", {name: each.type for name, each in known.items()}, contract)
    generated = [each.name for each in contract.schema.fields if each.name in known and known[each.name].is_generated]
    if generated:
        raise SourceInvalid(
            f"column {generated[0]!r} of table {table.name!r} is generated, and the server does not send such columns",
            where=contract.where,
            cure="take the field out of the contract, and compute it in a pipeline",
        )
    check_key(table.name, table.key, contract)


def check_mapping(table: str, types: Mapping[str, PgType], contract: Contract) -> None:
    """Raises `SourceInvalid` where a field has no column that can fill it, and no default."""
    mapping.check_mapping(table, types, contract, unmapped)


def followed_contract(contract: Contract, columns: Sequence[tuple[str, PgType]]) -> Contract:
    """The contract with the columns that it does not have, nullable and behind the others."""
    return mapping.followed_contract(contract, columns, inferred_avro_type)


def infer_contract(database: str, table: str, *, topic: str | None = None) -> Contract:
    """The contract of the topic `topic` (None: the table's name) with all columns of a table.

    Raises `SourceInvalid`, `SourceUnavailable`.
    """
    connection = connect(database)
    try:
        found = read_table(connection, type_catalogue(connection), table)
    finally:
        connection.close()
    fields = [
        (each.name, inferred_avro_type(each.type, each.name), each.is_nullable and each.key_position < 0)
        for each in found.columns
        if not each.is_generated
    ]
    return mapping.contract_of_table(table, fields, found.key, topic=topic)


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text literal, whatever `standard_conforming_strings` says."""
    if any("\udc80" <= each <= "\udcff" for each in value):
        # Bytes that are no UTF-8 (`KEY_ERRORS`), which a statement could not hold.
        return f"convert_from(decode('{value.encode(errors=KEY_ERRORS).hex()}', 'hex'), 'SQL_ASCII')"
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"
