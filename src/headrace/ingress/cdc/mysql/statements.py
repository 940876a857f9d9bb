"""Statements in the binary log, as far as they concern captured tables.

Owns the telling apart of what a statement does: most are definitions that need nothing, since every row brings the
names of its columns.

- Names are compared in the case in which the statement has them; those without a database are in the session's.
- A statement that changes rows themselves, or takes a captured table away, is told: its rows cannot be followed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

Table = tuple[str, str]
"""Schema and name."""
_COMMENT = re.compile(r"/\*.*?\*/|--[ \t][^\n]*|#[^\n]*", re.DOTALL)
_NAME = r"(?:`(?:[^`]|``)+`|[\w$\u0080-\uffff]+)"
_TABLE = re.compile(rf"({_NAME})(?:\s*\.\s*({_NAME}))?")
_TRUNCATE = re.compile(r"TRUNCATE\s+(?:TABLE\s+)?(?!TABLE\b)", re.IGNORECASE)
_DROP = re.compile(r"DROP\s+(?:TEMPORARY\s+)?TABLES?\s+(?:IF\s+EXISTS\s+)?", re.IGNORECASE)
_DROP_DATABASE = re.compile(r"DROP\s+(?:DATABASE|SCHEMA)\s+(?:IF\s+EXISTS\s+)?", re.IGNORECASE)
_RENAME = re.compile(r"RENAME\s+TABLES?\s+(?:IF\s+EXISTS\s+)?", re.IGNORECASE)
_ALTER = re.compile(r"ALTER\s+(?:ONLINE\s+|IGNORE\s+)*TABLE\s+(?:IF\s+EXISTS\s+)?", re.IGNORECASE)
_REPLACED = re.compile(r"CREATE\s+OR\s+REPLACE\s+TABLE\s+", re.IGNORECASE)
_NEW_NAME = re.compile(
    rf"\bRENAME\s+(?:TO\s+|AS\s+|=\s*)?(?!COLUMN\b|INDEX\b|KEY\b|CONSTRAINT\b)({_NAME})", re.IGNORECASE
)
_PARTITION = re.compile(
    r"\b(?:TRUNCATE|DROP|EXCHANGE|CONVERT)\s+(?:PARTITION|TABLE)|\b(?:DISCARD|IMPORT)\s+(?:PARTITION|TABLESPACE)",
    re.IGNORECASE,
)
_ROWS = re.compile(
    r"(?:INSERT|UPDATE|DELETE|REPLACE|LOAD\s+DATA|CREATE\s+(?:OR\s+REPLACE\s+)?TABLE\b.*?\bSELECT\b)",
    re.IGNORECASE | re.DOTALL,
)
_TEXT = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_EXECUTED = re.compile(r"/\*M?!\d*(.*?)\*/", re.DOTALL)
_SETTINGS = re.compile(r"SET\s+STATEMENT\b.*?\bFOR\s+", re.IGNORECASE | re.DOTALL)


class Deed(Enum):
    """What a statement does to a captured table."""

    TRUNCATED = auto()
    GONE = auto()
    """Dropped, renamed, or put in place of another."""
    ROWS = auto()
    """Its rows were changed and are not in the log."""


@dataclass(frozen=True, slots=True)
class Concern:
    """A captured table that a statement concerns."""

    table: Table
    deed: Deed


def bare(statement: str) -> str:
    """Without texts, without comments but for those that servers execute, and without settings in front."""
    text = _COMMENT.sub(" ", _EXECUTED.sub(r"\1", _TEXT.sub("''", statement))).strip().rstrip(";").strip()
    found = _SETTINGS.match(text)
    return text[found.end() :] if found else text


def concerns(statement: str, schema: str, captured: Collection[Table]) -> list[Concern]:
    """What a statement (`bare`), given in the database `schema`, does to captured tables."""
    if (found := _TRUNCATE.match(statement)) is not None:
        return _told(_tables(statement, found.end(), schema), Deed.TRUNCATED, captured)
    if (found := _DROP.match(statement)) is not None:
        if "TEMPORARY" in found.group(0).upper():
            return []
        return _told(_listed(statement[found.end() :], schema), Deed.GONE, captured)
    if (found := _DROP_DATABASE.match(statement)) is not None:
        name = _TABLE.match(statement, found.end())
        dropped = _unquoted(name.group(1)) if name else ""
        return [Concern(table, Deed.GONE) for table in captured if table[0] == dropped]
    if (found := _RENAME.match(statement)) is not None:
        parts = re.split(r",|\bTO\b", statement[found.end() :], flags=re.IGNORECASE)
        return _told([table for part in parts for table in _tables(part.strip(), 0, schema)], Deed.GONE, captured)
    if (found := _REPLACED.match(statement)) is not None:
        return _told(_tables(statement, found.end(), schema), Deed.GONE, captured)
    if (found := _ALTER.match(statement)) is not None:
        return _altered(statement, found.end(), schema, captured)
    if _ROWS.match(statement) is not None:
        return [Concern(table, Deed.ROWS) for table in captured if _mentions(statement, table, schema)]
    return []


def _altered(statement: str, at: int, schema: str, captured: Collection[Table]) -> list[Concern]:
    tables = _tables(statement, at, schema)
    if _PARTITION.search(statement) is not None:
        return _told(tables, Deed.ROWS, captured)
    renamed = [
        table for found in _NEW_NAME.finditer(statement, at) for table in _tables(statement, found.start(1), schema)
    ]
    return _told([*tables, *renamed], Deed.GONE, captured) if renamed else []


def _tables(text: str, at: int, schema: str) -> list[Table]:
    found = _TABLE.match(text, at)
    if found is None:
        return []
    first, second = found.groups()
    return [(_unquoted(first), _unquoted(second)) if second else (schema, _unquoted(first))]


def _listed(text: str, schema: str) -> list[Table]:
    return [table for part in text.split(",") for table in _tables(part.strip(), 0, schema)]


def _unquoted(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name


def _told(tables: list[Table], deed: Deed, captured: Collection[Table]) -> list[Concern]:
    return [Concern(table, deed) for table in dict.fromkeys(tables) if table in captured]


def _mentions(statement: str, table: Table, schema: str) -> bool:
    """Whether the table's name is there, with its database or in it."""
    name = rf"`?{re.escape(table[1].replace('`', '``'))}`?(?![\w$])"
    if re.search(rf"(?<![\w$])`?{re.escape(table[0])}`?\s*\.\s*{name}", statement) is not None:
        return True
    return table[0] == schema and re.search(rf"(?<![\w$.`]){name}", statement) is not None
