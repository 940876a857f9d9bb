"""The table that rows go into.

Owns how it is made, altered to fit the contract, and recognised as changed by somebody else.

- In keyed modes exactly the contract's key is unique, and none of its columns can be null.
- MySQL commits each change of a table by itself: one that a crash left out is made at the next opening. What the drift
  policy refuses is refused before the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pymysql.connections import Connection

from headrace.egress.drift import DriftStep, plan_drift
from headrace.egress.sdk import ConnectorConfig, Contract, TargetInvalid
from headrace.egress.update_groups import DELETED
from headrace_mysql.rights import DATABASE
from headrace_mysql.session import TableChanged, rows
from headrace_mysql.types import catalog_type, column_types, quoted, widens

STAGED = "_headrace_staged"
GROUP, VERSION = "__group", "__version"
"""Columns of the staged rows; contracts may not use names that begin so."""
_COLLATIONS = ("utf8mb4_0900_bin", "utf8mb4_nopad_bin", "utf8mb4_bin")
"""By what texts differ exactly when their characters do, blanks at the end included; the first that the server has."""
_COLUMNS = """
SELECT column_name, column_type, is_nullable = 'NO', column_default IS NOT NULL OR extra <> '', collation_name
FROM information_schema.columns WHERE table_schema = database() AND table_name = %s ORDER BY ordinal_position
"""
_KEYS = """
SELECT group_concat(column_name ORDER BY column_name SEPARATOR '`') FROM information_schema.statistics
WHERE table_schema = database() AND table_name = %s AND non_unique = 0
GROUP BY index_name HAVING max(nullable) = '' AND max(sub_part) IS NULL
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog tells it."""

    type: str
    is_required: bool
    """Not null."""
    has_default: bool
    """Or makes its value itself."""
    collation: str | None


@dataclass
class Table:
    """One table, for one contract."""

    table: str
    contract: Contract
    config: ConnectorConfig
    key: Sequence[str]
    """Empty in mode append."""
    version: str | None = None
    """The column by which stale rows are known."""
    creates: bool = True
    """Whether a missing table is made."""
    columns: Mapping[str, Column] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return quoted(self.table)

    @property
    def names(self) -> Sequence[str]:
        """The contract's columns, in its order."""
        return [each.name for each in self.contract.schema.fields]

    @property
    def column_list(self) -> str:
        return ", ".join(map(quoted, self.names))

    def staging(self) -> str:
        """The statement that makes a table of the session alone, with the target's types."""
        columns = [f"{quoted(name)} {self._staged_type(name)}" for name in self.names]
        return f"CREATE TEMPORARY TABLE {STAGED} ({', '.join(columns)}, {GROUP} int, {VERSION} bigint) ENGINE=InnoDB"

    def merge(self, left: Sequence[frozenset[str]]) -> Sequence[str]:
        """The statements that bring staged rows into the table; `left` are the columns that each group leaves alone.

        Not `ON DUPLICATE KEY UPDATE`: that changes another row where a second unique key of the table clashes. Staged
        rows come first in each join, so that the table's key is looked up and never scanned.
        """
        on = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in self.key)
        into, chosen, is_newer = self.column_list, ", ".join(f"s.{quoted(name)}" for name in self.names), ""
        if self.version is not None:
            version = quoted(self.version)
            into, chosen = f"{into}, {version}", f"{chosen}, s.{VERSION}"
            is_newer = f" AND (t.{version} IS NULL OR t.{version} <= s.{VERSION})"
        update = f"UPDATE {STAGED} s STRAIGHT_JOIN {self.name} t ON {on} SET"
        return [
            f"DELETE t FROM {STAGED} s STRAIGHT_JOIN {self.name} t ON {on} WHERE s.{GROUP} = {DELETED}{is_newer}",
            *(
                f"{update} {assigned} WHERE s.{GROUP} = {group}{is_newer}"
                for group, names in enumerate(left)
                if (assigned := self._assigned(names))
            ),
            f"INSERT INTO {self.name} ({into}) SELECT {chosen} FROM {STAGED} s LEFT JOIN {self.name} t"
            f" ON {on} WHERE s.{GROUP} <> {DELETED} AND t.{quoted(self.key[0])} IS NULL",
        ]

    def truncation(self, version: int) -> str:
        """The statement that removes all rows from before a truncation of the source."""
        assert self.version is not None
        return f"DELETE FROM {self.name} WHERE {quoted(self.version)} IS NULL OR {quoted(self.version)} < {version}"

    def _assigned(self, left: frozenset[str]) -> str:
        written = [quoted(name) for name in self.names if name not in (*self.key, *left)]
        version = [] if self.version is None else [f"t.{quoted(self.version)} = s.{VERSION}"]
        return ", ".join([*(f"t.{column} = s.{column}" for column in written), *version])

    def fit(self, connection: Connection) -> None:
        """Make the table, or alter it. Raises `DriftRefused`, `TargetInvalid`."""
        wanted = column_types(self.contract, tuple(self.key))
        existing = self._existing(connection)
        if not existing:
            rows(connection, self._creation(connection, wanted))
        for step in self._steps(wanted, existing):
            rows(connection, f"ALTER TABLE {self.name} {self._alteration(step)}")
        self.columns = self._read(connection)
        if self._lacks_version(self.columns):
            assert self.version is not None
            rows(connection, f"ALTER TABLE {self.name} ADD COLUMN {quoted(self.version)} bigint NULL")
            self.columns = self._read(connection)
        self._check_required(wanted)
        self._check_key(connection)

    def check_fit(self, connection: Connection) -> None:
        """Raise what `fit` would raise of a table as it stands, and change nothing."""
        wanted = column_types(self.contract, tuple(self.key))
        self.columns = self._existing(connection)
        if self.columns:
            self._steps(wanted, self.columns)
            self._check_required(wanted)
            self._check_key(connection)

    def rights(self, connection: Connection) -> Sequence[tuple[str, Sequence[str]]]:
        """What is done with the table as it stands, and with the database: staged rows go into a temporary table."""
        existing = self._read(connection)
        wanted = column_types(self.contract, tuple(self.key))
        written = ["SELECT", "INSERT", *(["UPDATE", "DELETE"] if self.key else [])]
        if not existing and self.creates:
            written.append("CREATE")
        elif existing and (self._steps(wanted, existing) or self._lacks_version(existing)):
            written.append("ALTER")
        return [(self.table, written), *([(DATABASE, ["CREATE TEMPORARY TABLES"])] if self.key else [])]

    def _lacks_version(self, columns: Mapping[str, Column]) -> bool:
        return self.version is not None and self.version not in columns

    def _existing(self, connection: Connection) -> Mapping[str, Column]:
        existing = self._read(connection)
        if not existing and not self.creates:
            cure = "make it, or leave `create: false` out"
            raise TargetInvalid(f"{self.config.egress}: there is no table {self.name}", cure=cure)
        return existing

    def _steps(self, wanted: Mapping[str, str], existing: Mapping[str, Column]) -> Sequence[DriftStep[str]]:
        """What must change in a table that is there."""
        if not existing:
            return []
        types = {name: column.type for name, column in existing.items() if name != self.version}
        target = f"{self.config.egress}: table {self.name}"
        return plan_drift(self.contract, wanted, types, self.config.drift, target=target, widens=widens)

    def check_unchanged(self, connection: Connection) -> None:
        """Keep others from altering the table until the transaction ends. Raises `TableChanged` where they did."""
        rows(connection, f"SELECT 1 FROM {self.name} LIMIT 0")
        if self._read(connection) != self.columns:
            raise TableChanged(f"{self.name}: somebody changed its columns", cure="headrace looks at it again")

    def _read(self, connection: Connection) -> Mapping[str, Column]:
        found = rows(connection, _COLUMNS, [self.table])
        return {row[0]: Column(catalog_type(row[1]), bool(row[2]), bool(row[3]), row[4]) for row in found}

    def _staged_type(self, name: str) -> str:
        column = self.columns[name]
        collation = f" COLLATE {column.collation}" if column.collation and column.type != "json" else ""
        return f"{column.type}{collation} {'NOT NULL' if name in self.key else 'NULL'}"

    def _creation(self, connection: Connection, wanted: Mapping[str, str]) -> str:
        known = {row[0] for row in rows(connection, "SELECT collation_name FROM information_schema.collations")}
        collation = next(name for name in _COLLATIONS if name in known)
        parts = [self._definition(name, column_type) for name, column_type in wanted.items()]
        if self.key:
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, self.key))})")
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} ({', '.join(parts)})"
            f" ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE {collation}"
        )

    def _definition(self, name: str, column_type: str | None) -> str:
        return f"{quoted(name)} {column_type} {'NOT NULL' if name in self.key else 'NULL'}"

    def _alteration(self, step: DriftStep[str]) -> str:
        if step.kind == "rename":
            return f"RENAME COLUMN {quoted(step.former)} TO {quoted(step.column)}"
        if step.kind == "widen":
            return f"MODIFY COLUMN {self._definition(step.column, step.type)}"
        if step.kind == "add":
            return f"ADD COLUMN {self._definition(step.column, step.type)}"
        return f"DROP COLUMN {quoted(step.column)}"

    def _check_required(self, wanted: Mapping[str, str]) -> None:
        for name, column in self.columns.items():
            if name not in wanted and column.is_required and not column.has_default:
                place = f"{self.config.egress}: table {self.name}"
                message = f"{place}: column {name!r} must have a value and is not in the contract"
                raise TargetInvalid(message, cure="give the column a default, or the contract the column")

    def _check_key(self, connection: Connection) -> None:
        if not self.key:
            return
        unique = [row[0].split("`") for row in rows(connection, _KEYS, [self.table])]
        if sorted(self.key) not in unique:
            message = f"{self.config.egress}: table {self.name} has no primary key of {', '.join(self.key)}"
            raise TargetInvalid(message, cure="give it the contract's key as its primary key")
