"""Where in its source a change stands, so that two of them can be put in order.

Owns `SourcePosition`, made from the `source` block of an envelope, and the rules of order of each database.

- PostgreSQL: the pair `sequence` (end of the last commit, position of the change; nothing before anything), then
  the order in the transaction. `lsn` alone goes back where a transaction that began earlier commits later.
- MySQL and MariaDB: the number in the transaction id where both come from one server, else file number, position, row;
  then the order in the transaction.
- MongoDB: second and ordinal of the cluster time, then the order in the transaction.
- SQL Server and Db2: commit, change and number of the event; Oracle: commit and change number.
- Positions of different sources have no order. `compare` says so, and never guesses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.contracts.debezium.problems import INVALID_SOURCE, Unreadable

Order = tuple[int, ...]

BEFORE_ALL = -1
"""Stands for a part that is not there: before every one that is."""

POSTGRESQL, MYSQL, MONGODB, SQLSERVER, ORACLE, SQLITE = (
    "postgresql",
    "mysql",
    "mongodb",
    "sqlserver",
    "oracle",
    "sqlite",
)
_FAMILIES = {
    "postgresql": POSTGRESQL,
    "postgres": POSTGRESQL,
    "yugabytedb": POSTGRESQL,
    "mysql": MYSQL,
    "mariadb": MYSQL,
    "mongodb": MONGODB,
    "sqlserver": SQLSERVER,
    "db2": SQLSERVER,
    "oracle": ORACLE,
    "sqlite": SQLITE,
}

_SHOWN = (
    "sequence",
    "lsn",
    "txId",
    "xmin",
    "origin",
    "origin_lsn",
    "gtid",
    "server_id",
    "file",
    "pos",
    "row",
    "ord",
    "lsid",
    "txnNumber",
    "wallTime",
    "change_lsn",
    "commit_lsn",
    "event_serial_no",
    "scn",
    "commit_scn",
    "ts_ms",
)
_GTID = re.compile(r"(?P<server>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?::[\w]+)?:(?P<number>\d+)")
_MARIADB_GTID = re.compile(r"(?P<server>\d+)-\d+-(?P<number>\d+)")
_FILE_NUMBER = re.compile(r"(?P<base>.*)\.(?P<number>\d+)")


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """A place in the log of one source."""

    source: str
    """The connector's family and the name of the server: only positions of one source can be compared."""
    order: Order
    """Compared number by number. Empty where the source block names no place."""
    transaction_server: str = ""
    """The server (MySQL) or domain (MariaDB) that numbered the transaction."""
    transaction_number: int | None = None
    binlog: str = ""
    """The name of the binlog files without their number."""
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What the source block says, as it says it."""

    def compare(self, other: SourcePosition) -> int | None:
        """-1, 0 or 1 as this one stands before, at or behind the other; None where nobody can tell."""
        if self.source != other.source or not self.order or not other.order:
            return None
        left, right = self.order, other.order
        if self.transaction_number is not None and other.transaction_number is not None:
            if self.transaction_server != other.transaction_server:
                return None
            left, right = (self.transaction_number, *left), (other.transaction_number, *right)
        elif self.binlog != other.binlog:
            return None
        return (left > right) - (left < right)


def source_family(source: Mapping[str, Any]) -> str:
    """The kind of database that a source block is of; empty where it cannot be told."""
    connector = source.get("connector")
    if isinstance(connector, str):
        return _FAMILIES.get(connector.lower(), connector.lower())
    for mark, family in (("lsn", POSTGRESQL), ("file", MYSQL), ("ord", MONGODB), ("commit_lsn", SQLSERVER)):
        if mark in source:
            return family
    return ""


def position_of(source: Mapping[str, Any], total_order: int | None) -> SourcePosition:
    """The position in a source block. Raises `Unreadable` where a part is not what it must be."""
    family = source_family(source)
    within = BEFORE_ALL if total_order is None else total_order
    name = source.get("name")
    shown = {each: source[each] for each in _SHOWN if source.get(each) is not None}
    where = f"{family}:{name if isinstance(name, str) else ''}"
    if family == MYSQL:
        return _mysql(source, within, where, shown)
    rules = {POSTGRESQL: _postgresql, MONGODB: _mongodb, SQLSERVER: _sqlserver, ORACLE: _oracle, SQLITE: _sqlite}
    rule = rules.get(family)
    order = rule(source) if rule else ()
    return SourcePosition(where, (*order, within) if order else (), fields=shown)


def _postgresql(source: Mapping[str, Any]) -> Order:
    sequence = source.get("sequence")
    if sequence is not None:
        return _pair(sequence)
    lsn = _number(source, "lsn")
    return () if lsn is None else (BEFORE_ALL, lsn)


def _pair(sequence: Any) -> Order:
    """`["<end of the last commit>","<position>"]`, either of them null."""
    try:
        parts = json.loads(sequence) if isinstance(sequence, str) else sequence
        before, here = (BEFORE_ALL if part is None else int(part) for part in parts)
    except (ValueError, TypeError, RecursionError):
        raise Unreadable(INVALID_SOURCE, "source.sequence is no pair of positions") from None
    return before, here


def _mysql(source: Mapping[str, Any], within: int, where: str, shown: Mapping[str, Any]) -> SourcePosition:
    server, number = _gtid(source.get("gtid"))
    file, binlog = source.get("file"), ""
    order: Order = ()
    if isinstance(file, str) and file:
        found = _FILE_NUMBER.fullmatch(file)
        if found is None:
            raise Unreadable(INVALID_SOURCE, "source.file has no number")
        binlog = found["base"]
        parts = [_number(source, part) for part in ("pos", "row")]
        # Both halves of a changed key come from one row of the log.
        order = (int(found["number"]), *(BEFORE_ALL if part is None else part for part in parts), within)
    return SourcePosition(where, order, server, number, binlog, shown)


def _gtid(text: Any) -> tuple[str, int | None]:
    if not isinstance(text, str) or not text:
        return "", None
    found = _GTID.fullmatch(text) or _MARIADB_GTID.fullmatch(text)
    if found is None:
        raise Unreadable(INVALID_SOURCE, "source.gtid is no transaction id")
    return found["server"].lower(), int(found["number"])


def _mongodb(source: Mapping[str, Any]) -> Order:
    millis, ordinal = _number(source, "ts_ms"), _number(source, "ord")
    return () if millis is None or ordinal is None else (millis // 1000, ordinal)


def _sqlserver(source: Mapping[str, Any]) -> Order:
    commit, change = (_hexadecimal(source, part) for part in ("commit_lsn", "change_lsn"))
    serial = _number(source, "event_serial_no")
    if commit is None and change is None:
        return ()
    return tuple(BEFORE_ALL if part is None else part for part in (commit, change, serial))


def _oracle(source: Mapping[str, Any]) -> Order:
    commit, change = (_number(source, part) for part in ("commit_scn", "scn"))
    return () if change is None else (change if commit is None else commit, change)


def _sqlite(source: Mapping[str, Any]) -> Order:
    number = _number(source, "sequence")
    return () if number is None else (number,)


def _number(source: Mapping[str, Any], part: str) -> int | None:
    value = source.get(part)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,30}", value):
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Unreadable(INVALID_SOURCE, f"source.{part} is no number")


def _hexadecimal(source: Mapping[str, Any], part: str) -> int | None:
    value = source.get(part)
    if value is None or value == "NULL":
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F:]{1,60}", value):
        return int(value.replace(":", "") or "0", 16)
    raise Unreadable(INVALID_SOURCE, f"source.{part} is no log position")
