"""Sessions with MySQL and MariaDB.

Owns what a session is told when it begins, and what each of the server's errors means: try again, somebody must mend
something, or this row is bad.

- A session is strict: a value that does not fit is refused, never cut.
- No message carries a password.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pymysql
from pymysql.connections import Connection

from headrace.egress.references import filled
from headrace.egress.sdk import HeadraceError, TargetInvalid, TargetUnavailable
from headrace.ingress.cdc.mysql.connection import database_of, settings_of

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 600
IDLE_TIMEOUT_S = 600
"""How long an open transaction may wait for its next rows. A process that hangs keeps its locks no longer."""
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',"
    f" time_zone = '+00:00', wait_timeout = {IDLE_TIMEOUT_S}"
)
_CLASHES = frozenset({1048, 1062, 1216, 1217, 1364, 1451, 1452, 1644, 3819, 4025})
"""Null where none may be, keys, references, checks, and what a trigger says."""
_BAD_VALUES = frozenset({1264, 1265, 1292, 1366, 1367, 1406, 1411, 1441, 1690, 3140, 3141, 3156, 3157, 3158})
"""Out of range, too long, no such date, number, text or JSON."""
_CHANGED = frozenset({1054, 1136, 1146})
"""A table or a column is not there."""
_INVALID = frozenset({1044, 1045, 1049, 1064, 1071, 1103, 1130, 1142, 1143, 1170, 1227, 1235, 1251, 1665, 1698, 2059})
"""Who may enter and do what, and what the server cannot do at all."""


class TableChanged(TargetUnavailable):
    """The table is not what it was when it was opened; it is looked at again, and followed or refused by the policy."""

    code = "mysql.table_changed"


def connect(database: str, *, lock_timeout_s: int) -> Connection:
    """A session that begins transactions itself. Raises `TargetInvalid`, `TargetUnavailable`."""
    url = filled(database, "database")
    try:
        settings, name = settings_of(url), database_of(url)
    except HeadraceError:
        # What is wrong with the address may repeat a part of it, and so of a password.
        message = "option 'database' is no URL of a database"
        raise TargetInvalid(message, cure="write mysql://user@host:3306/name") from None
    if not name:
        raise TargetInvalid("option 'database' names no database", cure="write mysql://user@host:3306/name")
    with translated():
        connection = pymysql.connect(
            **settings,
            database=name,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=ANSWER_TIMEOUT_S,
            write_timeout=ANSWER_TIMEOUT_S,
            program_name="headrace",
        )
        connection.query(_SESSION)
        locks = f"lock_wait_timeout = {lock_timeout_s}, innodb_lock_wait_timeout = {lock_timeout_s}"
        connection.query(f"SET SESSION {locks}")
        connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return connection


def rows(connection: Connection, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """What a query gives."""
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        return list(cursor.fetchall())


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as headrace's."""
    try:
        yield
    except (pymysql.MySQLError, OSError) as error:
        raise _translation(error) from error


def refusal_code(error: BaseException) -> str | None:
    """Why a row is refused: a rule of the table, or a value that is none of its type. None: it is not about a row."""
    number = _number(error)
    if number in _CLASHES:
        return "mysql.constraint"
    return "mysql.value" if number in _BAD_VALUES else None


def message_of(error: BaseException) -> str:
    """The server's words."""
    return str(error.args[1] if len(error.args) > 1 else error).strip() or type(error).__name__


def _number(error: BaseException) -> int:
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def _translation(error: BaseException) -> TargetInvalid | TargetUnavailable:
    number = _number(error)
    text = f"the server says {number}: {message_of(error)}" if number else f"the server: {message_of(error)}"
    if number in _CHANGED:
        return TableChanged(text, cure="headrace looks at the table again")
    if number in _INVALID:
        return TargetInvalid(text, cure="mend what the server says")
    return TargetUnavailable(text)
