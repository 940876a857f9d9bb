"""Connections to PostgreSQL: ordinary ones, and one that replicates.

Owns what a session is told when it begins, and the turning of the driver's errors into headrace's.

- psycopg has no interface for replication: `Replication` speaks the protocol through its `pq.PGconn`.
- What the server sends is read without waiting; who waits does so on `fileno`.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headrace.errors import Where
from headrace.ingress.cdc.errors import SlotInUse, SourceInvalid, SourceUnavailable
from headrace.ingress.cdc.postgres.messages import EPOCH_US, ProtocolBroken, lsn_text
from headrace.ingress.cdc.postgres.text_columns import SESSION_SETTINGS

CONNECT_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 120.0
"""For commands of the replication connection; to make a slot waits for transactions that are open."""
_OPTIONS = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items() if name != "client_encoding")
_XLOG_DATA, _KEEPALIVE = struct.Struct(">QQq"), struct.Struct(">QqB")
_STATUS = struct.Struct(">cQQQqB")
UTF8, SQL_ASCII = "UTF8", "SQL_ASCII"
_IN_USE, _INSUFFICIENT_PRIVILEGE = "55006", "42501"
_INVALID_CLASSES = ("28", "3D", "42", "22", "0A")
"""Classes of SQLSTATE that a person must mend: authorisation, unknown database or object, bad data, no feature."""

Connection = psycopg.Connection[tuple[Any, ...]]


def connect(database: str, *, where: Where | None = None) -> Connection:
    """An ordinary connection, each statement its own transaction. Raises `SourceInvalid`, `SourceUnavailable`."""
    with translated(where):
        return psycopg.connect(_conninfo(database), autocommit=True)


def encoding_for(connection: Connection) -> str:
    """What to ask the server's text in.

    UTF-8, but for a database that does not look at encodings: it would refuse to send what is no UTF-8, and everything
    behind that.
    """
    return SQL_ASCII if connection.info.parameter_status("server_encoding") == SQL_ASCII else UTF8


def place(database: str) -> str:
    """Host and name of a database, for messages: never its password."""
    parts = conninfo_to_dict(database)
    return f"{parts.get('host') or parts.get('hostaddr') or 'local'}/{parts.get('dbname') or parts.get('user') or ''}"


@contextmanager
def translated(where: Where | None = None) -> Iterator[None]:
    """The driver's errors as headrace's."""
    try:
        yield
    except psycopg.ProgrammingError as error:
        raise SourceInvalid(_first_line(error), where=where, cure="mend what the server says") from error
    except psycopg.Error as error:
        if error.sqlstate is not None and error.sqlstate[:2] in _INVALID_CLASSES:
            raise SourceInvalid(_first_line(error), where=where, cure="mend what the server says") from error
        raise SourceUnavailable(_first_line(error), where=where) from error


def _first_line(error: psycopg.Error) -> str:
    return "PostgreSQL: " + (str(error).strip().splitlines() or [type(error).__name__])[0]


def _conninfo(database: str, **more: Any) -> str:
    try:
        given = conninfo_to_dict(database)
        options = f"{given.get('options') or ''} {_OPTIONS}".strip()
        settled: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "headrace", **given}
        return make_conninfo("", **{**settled, "options": options, "client_encoding": UTF8, **more})
    except psycopg.ProgrammingError as error:
        raise SourceInvalid(_first_line(error), cure="write `postgresql://user@host:port/database`") from error


class Replication:
    """A connection in replication mode: (command* start receive* | acknowledge*) close."""

    def __init__(self, database: str, *, encoding: str = UTF8, where: Where | None = None) -> None:
        self._where = where
        told = _conninfo(database, replication="database", client_encoding=encoding)
        self._connection = pq.PGconn.connect(told.encode())
        if self._connection.status != pq.ConnStatus.OK:
            message = self._error_text()
            self._connection.finish()
            is_wrong = any(word in message for word in ("authentication", "does not exist", "permission", "must be"))
            raise (SourceInvalid if is_wrong else SourceUnavailable)(message, where=where)
        self.wal_end = 0
        """How far the server has looked, as it said last."""

    def close(self) -> None:
        self._connection.finish()

    @property
    def fileno(self) -> int:
        return self._connection.socket

    def create_slot(self, slot: str) -> tuple[int, str]:
        """Make a slot; returns where it begins, and the name of the snapshot of that moment, which lasts until the next
        command."""
        (_, begins, snapshot, _) = self._command(f'CREATE_REPLICATION_SLOT "{slot}" LOGICAL pgoutput EXPORT_SNAPSHOT')
        high, _, low = begins.partition("/")
        return int(high, 16) << 32 | int(low, 16), snapshot

    def start(self, slot: str, publication: str, lsn: int, *, with_unfinished: bool = False) -> None:
        """Begin to stream, large transactions before they commit if asked (version 2 of the protocol).

        Raises `SlotInUse`, `SourceInvalid`, `SourceUnavailable`.
        """
        version = "proto_version '2', streaming 'on'" if with_unfinished else "proto_version '1'"
        options = f"{version}, publication_names '\"{publication}\"', messages 'true'"
        self._connection.send_query(f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(lsn)} ({options})'.encode())
        result = self._result()
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._failure(result)
        self._connection.nonblocking = 1

    def receive(self) -> tuple[int, bytes] | None:
        """The next change with its place in the log; None when none is there yet."""
        while True:
            size, data = self._connection.get_copy_data(1)
            if size == 0:
                with translated(self._where):
                    self._connection.consume_input()
                size, data = self._connection.get_copy_data(1)
                if size == 0:
                    return None
            if size < 0:
                raise self._ended(size)
            found = self._unwrapped(bytes(data))
            if found is not None:
                return found

    def wait(self, seconds: float) -> None:
        """Until something may be there."""
        select.select([self.fileno], [], [], seconds)

    def acknowledge(self, lsn: int) -> None:
        """Tell the server that everything before `lsn` is safe."""
        now_us = time.time_ns() // 1_000 - EPOCH_US
        with translated(self._where):
            self._connection.put_copy_data(_STATUS.pack(b"r", lsn, lsn, lsn, now_us, 0))
            self._connection.flush()

    def _unwrapped(self, data: bytes) -> tuple[int, bytes] | None:
        try:
            if data[:1] == b"w":
                start, end, _ = _XLOG_DATA.unpack_from(data, 1)
                self.wal_end = max(self.wal_end, end)
                return start, data[1 + _XLOG_DATA.size :]
            if data[:1] == b"k":
                end, _, self.is_asked = _KEEPALIVE.unpack_from(data, 1)
                self.wal_end = max(self.wal_end, end)
                return None
        except struct.error as error:
            raise ProtocolBroken("the server sent a replication message that is cut short") from error
        raise ProtocolBroken(f"the server sent a replication message of the unknown kind {data[:1]!r}")

    is_asked: int = 0
    """Whether the server waits for a word of ours."""

    def _command(self, command: str) -> tuple[str, ...]:
        self._connection.send_query(command.encode())
        result = self._result()
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise self._failure(result)
        while self._connection.get_result() is not None:
            pass
        return tuple((result.get_value(0, column) or b"").decode() for column in range(result.nfields))

    def _result(self) -> pq.abc.PGresult:
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        with translated(self._where):
            while self._connection.is_busy():
                left = deadline - time.monotonic()
                if left <= 0:
                    with suppress(psycopg.Error):
                        self._connection.get_cancel().cancel()
                    raise SourceUnavailable(
                        f"PostgreSQL did not answer within {COMMAND_TIMEOUT_S:.0f} s",
                        where=self._where,
                        cure="end transactions that were left open: a slot is made when all older ones have ended",
                    )
                self.wait(left)
                self._connection.consume_input()
            result = self._connection.get_result()
        if result is None:
            raise SourceUnavailable(f"PostgreSQL: {self._error_text()}", where=self._where)
        return result

    def _failure(self, result: pq.abc.PGresult) -> SourceInvalid | SourceUnavailable | SlotInUse:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = "PostgreSQL: " + (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        if state == _IN_USE:
            return SlotInUse(message, where=self._where, cure="stop the other reader")
        if state == _INSUFFICIENT_PRIVILEGE:
            cure = "give the user the attribute REPLICATION, and SELECT on the tables"
            return SourceInvalid(message, where=self._where, cure=cure)
        is_wrong = state[:2] in _INVALID_CLASSES
        return (SourceInvalid if is_wrong else SourceUnavailable)(message, where=self._where)

    def _ended(self, size: int) -> SourceUnavailable | SourceInvalid | SlotInUse:
        if size == -1:
            result = self._connection.get_result()
            if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                return self._failure(result)
        return SourceUnavailable(f"PostgreSQL ended the stream: {self._error_text()}", where=self._where)

    def _error_text(self) -> str:
        return (self._connection.get_error_message().strip().splitlines() or ["the connection was closed"])[0]
