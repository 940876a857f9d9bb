"""Connections to MySQL and MariaDB.

Owns what a session is told when it begins, and the turning of the driver's errors into headrace's.

- A session has UTF-8, the zone +00:00 and no modes, so that cells are the same whatever the server's settings.
- `raw` connections give cells as the server's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import pymysql
from pymysql.connections import Connection

from headrace.errors import Where
from headrace.ingress.cdc.errors import LogPurged, SourceInvalid, SourceUnavailable
from headrace.ingress.violations import IngressInvalid

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 600
"""For one answer; a table that is locked must not hold the thread for ever."""
DEFAULT_PORT = 3306
AGAIN = "raise `generation` in the ingress file: its snapshots are then taken again"
_SESSION = (
    "SET SESSION sql_mode = '', time_zone = '+00:00', wait_timeout = 86400, net_write_timeout = 600,"
    " lock_wait_timeout = 10"
)
_SCHEMES = ("mysql", "mariadb")
_LOG_UNREADABLE = 1236
_INVALID = frozenset({1044, 1045, 1049, 1064, 1102, 1103, 1130, 1141, 1142, 1143, 1146, 1227, 1370, 1698, 2059})
"""Numbers of errors that a person must mend: who may enter and see, and what is there."""
_PURGED_WORDS = (
    "could not find first log",
    "purged",
    "not in the master's binlog",
    "not found in the binlog",
    "slave has more gtids",
    "missing in master",
    "impossible position",
    "binlog truncated",
)
"""Of the server's reasons why it cannot send its log from a place on."""


def settings_of(database: str, *, where: Where | None = None) -> dict[str, Any]:
    """The driver's settings of a URL. Raises `IngressInvalid`."""
    try:
        parts = urlsplit(database)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise _no_url(str(error), where) from error
    if parts.scheme not in _SCHEMES or not parts.hostname or not parts.username:
        raise _no_url("it is no such URL", where)
    options = parse_qs(parts.query)
    unknown = sorted(set(options) - {"ssl_ca"})
    if unknown:
        raise _no_url(f"it has the option {unknown[0]!r}, and takes `ssl_ca`", where)
    return {
        "host": parts.hostname,
        "port": port,
        "user": unquote(parts.username),
        "password": unquote(parts.password or ""),
        **({"ssl": {"ca": options["ssl_ca"][0]}} if "ssl_ca" in options else {}),
    }


def database_of(database: str) -> str:
    """The name of the database that a URL names; empty without one."""
    return unquote(_split(database).path.strip("/"))


def place(database: str) -> str:
    """Host and name of a database, for messages: never its password."""
    parts = _split(database)
    return f"{parts.hostname or 'local'}/{database_of(database)}"


def _split(database: str) -> SplitResult:
    try:
        return urlsplit(database)
    except ValueError as error:
        raise _no_url(str(error), None) from error


def _no_url(reason: str, where: Where | None) -> IngressInvalid:
    return IngressInvalid(
        f"'database' cannot be read: {reason}", where=where, cure="write mysql://user@host:3306/database"
    )


def connect(database: str, *, raw: bool = False, where: Where | None = None) -> Connection:
    """An ordinary connection, each statement its own transaction. Raises `SourceInvalid`, `SourceUnavailable`."""
    settings = settings_of(database, where=where)
    more: Mapping[str, Any] = {"use_unicode": False, "conv": {}} if raw else {}
    with translated(where):
        connection = pymysql.connect(
            **settings,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            program_name="headrace",
            **more,
        )
        with connection.cursor() as cursor:
            cursor.execute(_SESSION)
    return connection


def rows(connection: Connection, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """What a query gives. Raises `SourceInvalid`, `SourceUnavailable`."""
    with translated(), connection.cursor() as cursor:
        cursor.execute(query, values or None)
        return list(cursor.fetchall())


@contextmanager
def translated(where: Where | None = None) -> Iterator[None]:
    """The driver's errors as headrace's."""
    try:
        yield
    except (pymysql.MySQLError, OSError) as error:
        raise translation(error, where) from error


def translation(error: BaseException, where: Where | None = None) -> SourceInvalid | SourceUnavailable | LogPurged:
    """What an error of the driver is."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    message = str(error.args[1] if len(error.args) > 1 else error).strip()
    text = f"the server says {number}: {message}" if number else f"the server: {message or type(error).__name__}"
    if number == _LOG_UNREADABLE and any(word in message.lower() for word in _PURGED_WORDS):
        return LogPurged(
            f"the server does not have its binary log from the committed position on: {message}",
            where=where,
            cure=f"{AGAIN}; how long logs are kept is `binlog_expire_logs_seconds`",
        )
    if number in _INVALID or (number == 0 and isinstance(error, pymysql.ProgrammingError)):
        return SourceInvalid(text, where=where, cure="mend what the server says")
    return SourceUnavailable(text, where=where)


def quoted(name: str) -> str:
    """An identifier."""
    return "`" + name.replace("`", "``") + "`"
