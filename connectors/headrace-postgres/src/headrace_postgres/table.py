"""The table that rows go into.

Owns how it is made, altered to fit the contract, and recognised as changed by somebody else.

- In keyed modes exactly the contract's key is unique, and none of its columns can be null.
- What the drift policy refuses leaves the table as it is: all of `fit` is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.egress.drift import DriftStep, plan_drift
from headrace.egress.sdk import ConnectorConfig, Contract, TargetInvalid
from headrace.egress.update_groups import DELETED
from headrace_postgres.session import Connection, TableChanged
from headrace_postgres.types import USER_DEFINED, column_types, quoted, widens

STAGED = "_headrace_staged"
GROUP, VERSION = "__group", "__version"
"""Columns of the staged rows; contracts may not use names that begin so."""
_COLUMNS = f"""
SELECT attname, CASE WHEN typtype IN ('e', 'd') THEN '{USER_DEFINED}' ELSE '' END || format_type(atttypid, atttypmod),
       attnotnull, atthasdef OR attidentity <> '' OR attgenerated <> ''
FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEYS = """
SELECT array_agg(attname ORDER BY attname)::text[] FROM pg_index, unnest(indkey::int2[]) number
LEFT JOIN pg_attribute ON attrelid = to_regclass(%s) AND attnum = number
WHERE indrelid = to_regclass(%s) AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
  AND indexprs IS NULL AND indnatts = indnkeyatts GROUP BY indexrelid
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog tells it."""

    type: str
    is_required: bool
    """Not null."""
    has_default: bool
    """Or makes its value itself."""


@dataclass
class Table:
    """One table, for one contract."""

    schema: str
    table: str
    contract: Contract
    config: ConnectorConfig
    key: Sequence[str]
    """Empty in mode append."""
    version: str | None = None
    """The column by which stale rows are known."""
    creates: bool = True
    """Whether a missing schema and table are made."""
    columns: Mapping[str, Column] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    @property
    def column_list(self) -> str:
        """The contract's columns, in its order."""
        return ", ".join(quoted(each.name) for each in self.contract.schema.fields)

    def staging(self) -> str:
        """The statement that makes a table of the session alone, with the target's columns."""
        return (
            f"CREATE TEMPORARY TABLE {STAGED} ON COMMIT DELETE ROWS AS SELECT {self.column_list},"
            f" 0::integer AS {GROUP}, 0::bigint AS {VERSION} FROM {self.name} WITH NO DATA"
        )

    def upsert(self, group: int, left: frozenset[str]) -> str:
        """The statement that writes the staged rows of a group, which leave columns as they are.

        In the order of keys, as other sessions do: so none waits for another in a circle.
        """
        key = ", ".join(map(quoted, self.key))
        into, chosen, is_newer = self.column_list, self.column_list, ""
        written = [quoted(each.name) for each in self.contract.schema.fields if each.name not in (*self.key, *left)]
        if self.version is not None:
            version = quoted(self.version)
            into, chosen, written = f"{into}, {version}", f"{chosen}, {VERSION}", [*written, version]
            is_newer = f" WHERE t.{version} IS NULL OR t.{version} <= excluded.{version}"
        update = ", ".join(f"{column} = excluded.{column}" for column in written)
        return (
            f"INSERT INTO {self.name} AS t ({into}) SELECT {chosen} FROM {STAGED}"
            f" WHERE {GROUP} = {group} ORDER BY {key} ON CONFLICT ({key})"
            + (f" DO UPDATE SET {update}{is_newer}" if written else " DO NOTHING")
        )

    def deletion(self) -> str:
        """The statement that removes the rows of the staged keys."""
        on = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in self.key)
        is_newer = ""
        if self.version is not None:
            is_newer = f" AND (t.{quoted(self.version)} IS NULL OR t.{quoted(self.version)} <= s.{VERSION})"
        return f"DELETE FROM {self.name} t USING {STAGED} s WHERE s.{GROUP} = {DELETED} AND {on}{is_newer}"

    def truncation(self, version: int) -> str:
        """The statement that removes all rows from before a truncation of the source."""
        assert self.version is not None
        return f"DELETE FROM {self.name} WHERE {quoted(self.version)} IS NULL OR {quoted(self.version)} < {version}"

    def fit(self, connection: Connection) -> None:
        """Make the table, or alter it. Raises `DriftRefused`, `TargetInvalid`."""
        # Looked for first: `IF NOT EXISTS` asks for the right to make it even where it is there.
        if self.creates and not has(connection, "to_regnamespace", quoted(self.schema)):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.schema)}")
        wanted = column_types(self.contract)
        existing = self._read(connection)
        if not existing and self.creates:
            connection.execute(self._creation(wanted))
        elif not existing:
            cure = "make it, or leave `create: false` out"
            raise TargetInvalid(f"{self.config.egress}: there is no table {self.name}", cure=cure)
        else:
            types = {name: column.type for name, column in existing.items() if name != self.version}
            target = f"{self.config.egress}: table {self.name}"
            for step in plan_drift(self.contract, wanted, types, self.config.drift, target=target, widens=widens):
                connection.execute(f"ALTER TABLE {self.name} {_alteration(step)}")
        if self.version is not None:
            connection.execute(f"ALTER TABLE {self.name} ADD COLUMN IF NOT EXISTS {quoted(self.version)} bigint")
        self.columns = self._read(connection)
        self._check_required(wanted)
        self._check_key(connection)

    def check_unchanged(self, connection: Connection) -> None:
        """Keep others from altering the table until the transaction ends. Raises `TableChanged` where they did."""
        connection.execute(f"LOCK TABLE {self.name} IN ROW EXCLUSIVE MODE")
        if self._read(connection) != self.columns:
            raise TableChanged(f"{self.name}: somebody changed its columns", cure="headrace looks at it again")

    def _read(self, connection: Connection) -> Mapping[str, Column]:
        return {row[0]: Column(*row[1:]) for row in connection.execute(_COLUMNS, [self.name]).fetchall()}

    def _creation(self, wanted: Mapping[str, str]) -> str:
        parts = [f"{quoted(name)} {column_type}" for name, column_type in wanted.items()]
        if self.key:
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, self.key))})")
        return f"CREATE TABLE {self.name} ({', '.join(parts)})"

    def _check_required(self, wanted: Mapping[str, str]) -> None:
        for name, column in self.columns.items():
            if name not in wanted and column.is_required and not column.has_default:
                place = f"{self.config.egress}: table {self.name}"
                message = f"{place}: column {name!r} must have a value and is not in the contract"
                raise TargetInvalid(message, cure="give the column a default, or the contract the column")

    def _check_key(self, connection: Connection) -> None:
        if not self.key:
            return
        unique = [row[0] for row in connection.execute(_KEYS, [self.name, self.name]).fetchall()]
        nullable = [name for name in self.key if not self.columns[name].is_required]
        if sorted(self.key) not in unique or nullable:
            message = f"{self.config.egress}: table {self.name} has no primary key of {', '.join(self.key)}"
            raise TargetInvalid(message, cure="give it the contract's key as its primary key")


def has(connection: Connection, function: str, name: str) -> bool:
    """Whether there is such a schema (`to_regnamespace`) or table (`to_regclass`)."""
    return connection.execute(f"SELECT {function}(%s) IS NOT NULL", [name]).fetchone() == (True,)


def _alteration(step: DriftStep[str]) -> str:
    column = quoted(step.column)
    if step.kind == "rename":
        return f"RENAME COLUMN {quoted(step.former)} TO {column}"
    if step.kind == "widen":
        return f"ALTER COLUMN {column} TYPE {step.type}"
    if step.kind == "add":
        return f"ADD COLUMN {column} {step.type}"
    return f"DROP COLUMN {column}"
