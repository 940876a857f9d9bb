"""The server's binary log as events, read as a replica does.

Owns the connection that streams, the frames of events, and where each stands.

- `mysql-replication` asks for the stream: ids of transactions, checksums, heartbeats. The events are read here: its own
  loop reconnects by itself in the midst of a transaction, waits without end, and drops what it does not know.
- What the server sends is read without waiting; who waits does so with `wait`.
- Every event is looked at: one that cannot be framed, or whose checksum is wrong, is `ProtocolBroken`.
"""

from __future__ import annotations

import select
import ssl
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.protocol import MysqlPacket
from pymysqlreplication import BinLogStreamReader

from headrace.errors import Where
from headrace.ingress.cdc.errors import LogPurged, ProtocolBroken, SourceInvalid, SourceUnavailable
from headrace.ingress.cdc.mysql.connection import CONNECT_TIMEOUT_S, settings_of, translation
from headrace.ingress.cdc.mysql.position import Place

HEARTBEAT_S = 10.0
"""The server says so often that it lives while nothing happens."""
SILENCE_S_MAX = 60.0
"""Without a word the connection is given up."""
RECEIVE_BYTES = 256 * 1024
ROTATE, FORMAT_DESCRIPTION, HEARTBEAT = 4, 15, 27
_DUMP, _DUMP_GTID = 0x12, 0x1E
_HEAD = struct.Struct("<IBIIIH")
_FRAME = struct.Struct("<I")
_PART_BYTES_MAX = 0xFFFFFF
_ARTIFICIAL = 0x20
_OFFSET_MASK = 0xFFFFFFFF
_ERROR, _END = 0xFF, 0xFE


class _NothingThere(Exception):
    """The server has sent nothing more."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    kind: int
    at_s: int
    """When its statement began, in seconds since 1970."""
    server_id: int
    start: int
    """Where it begins in its file."""
    end: int
    flags: int
    body: bytes


class _StreamConnection(Connection):  # type: ignore[misc]
    """A connection that reads packets without waiting once the stream was asked for."""

    streams = False
    _is_open = False

    def __init__(self, **settings: Any) -> None:
        self.buffer, self.at = bytearray(), 0
        super().__init__(**settings)
        self._is_open = True

    def _write_bytes(self, data: bytes) -> None:
        if self._is_open and len(data) > 4 and data[4] in (_DUMP, _DUMP_GTID):
            self.streams = True
        super()._write_bytes(data)

    def _read_packet(self, packet_type: type[MysqlPacket] = MysqlPacket) -> MysqlPacket:
        if self.streams:
            raise _NothingThere
        return super()._read_packet(packet_type)

    def wait(self, seconds: float) -> bool:
        """Whether something can be received within so long."""
        pending = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()
        return bool(pending) or bool(select.select([self._sock], [], [], seconds)[0])

    def payload(self) -> bytes | None:
        """The next packet, if all of it is there."""
        at, parts = self.at, []
        while True:
            if len(self.buffer) - at < _FRAME.size:
                return None
            size = _FRAME.unpack_from(self.buffer, at)[0] & _PART_BYTES_MAX
            if len(self.buffer) - at < _FRAME.size + size:
                return None
            parts.append(bytes(self.buffer[at + _FRAME.size : at + _FRAME.size + size]))
            at += _FRAME.size + size
            if size < _PART_BYTES_MAX:
                break
        self.at = at
        if self.at > RECEIVE_BYTES:
            del self.buffer[: self.at]
            self.at = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def receive(self) -> bool:
        """Take what was sent; False where nothing was."""
        if not self.wait(0):
            return False
        received = self._sock.recv(RECEIVE_BYTES)
        if not received:
            raise pymysql.OperationalError(2013, "the server closed the connection")
        self.buffer += received
        return True


class BinlogStream:
    """The stream from one place on. Used from one thread: (receive | wait)* close."""

    def __init__(
        self,
        database: str,
        server_id: int,
        place: Place,
        gtids: str,
        *,
        is_mariadb: bool,
        has_checksums: bool,
        where: Where | None = None,
    ) -> None:
        self._where, self._has_checksums = where, has_checksums
        self.file = place.file
        self._offset, self._heard_at_s = 0, time.monotonic()
        settings = {
            **settings_of(database, where=where),
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": SILENCE_S_MAX,
        }
        # Without ids of transactions the library ignores file and offset of a server that it knows to be MariaDB.
        start: dict[str, Any] = {"auto_position": gtids, "is_mariadb": is_mariadb}
        if not gtids:
            start = {"log_file": place.file, "log_pos": place.offset, "resume_stream": True}
        self._reader = BinLogStreamReader(
            settings,
            server_id,
            blocking=True,
            only_tables=[],
            slave_heartbeat=HEARTBEAT_S,
            pymysql_wrapper=_StreamConnection,
            enable_logging=False,
            **start,
        )
        try:
            self._reader.fetchone()
        except _NothingThere:
            self._connection: _StreamConnection = self._reader._stream_connection
        except (pymysql.MySQLError, OSError) as error:
            self.close()
            raise translation(error, where) from error
        else:
            self.close()
            raise ProtocolBroken("the server answered before it was asked")

    def close(self) -> None:
        with suppress(pymysql.MySQLError, OSError):
            self._reader.close()

    def wait(self, seconds: float) -> None:
        """Until something may be there. Call it when `receive` gave nothing."""
        with suppress(OSError, ValueError):  # Of a connection that ended, which `receive` tells.
            self._connection.wait(seconds)

    def receive(self) -> Event | None:
        """The next event; None when none is there yet. Raises `SourceUnavailable`, `LogPurged`, `ProtocolBroken`."""
        while True:
            payload = self._connection.payload()
            if payload is None:
                if not self._has_received():
                    return None
                continue
            event = self._event(payload)
            if event is not None:
                return event

    def _has_received(self) -> bool:
        try:
            has_received = self._connection.receive()
        except (pymysql.MySQLError, OSError) as error:
            raise translation(error, self._where) from error
        now_s = time.monotonic()
        if has_received:
            self._heard_at_s = now_s
        elif now_s - self._heard_at_s > SILENCE_S_MAX:
            # A connection that was cut without a word would be silent for ever.
            raise SourceUnavailable(f"the server said nothing for {SILENCE_S_MAX:.0f} s", where=self._where)
        return has_received

    def _event(self, payload: bytes) -> Event | None:
        if payload[:1] != b"\0":
            raise self._ended(payload)
        if len(payload) < 1 + _HEAD.size:
            raise ProtocolBroken("the server sent an event that is cut short")
        at_s, kind, server_id, size, log_offset, flags = _HEAD.unpack_from(payload, 1)
        if size != len(payload) - 1:
            raise ProtocolBroken(f"the server sent an event of {len(payload) - 1} bytes that says {size}")
        body = self._body(kind, payload)
        if kind == ROTATE:
            self.file, self._offset = body[8:].decode(), int.from_bytes(body[:8], "little")
            return Event(kind, at_s, server_id, self._offset, self._offset, flags, body)
        if flags & _ARTIFICIAL or not log_offset or kind == HEARTBEAT:
            return None
        self._offset = self._unwrapped(log_offset)
        return Event(kind, at_s, server_id, self._offset - size, self._offset, flags, body)

    def _unwrapped(self, log_offset: int) -> int:
        """Offsets in events have 32 bits, and a file with a huge transaction may be larger."""
        found = self._offset & ~_OFFSET_MASK | log_offset
        return found if found >= self._offset else found + _OFFSET_MASK + 1

    def _body(self, kind: int, payload: bytes) -> bytes:
        body = payload[1 + _HEAD.size :]
        if kind == FORMAT_DESCRIPTION:
            # It always has the algorithm and room for a sum; what follows in this file is like it.
            self._has_checksums = body[-5] == 1
        if not self._has_checksums:
            return body
        if zlib.crc32(payload[1:-4]) != int.from_bytes(payload[-4:], "little"):
            raise ProtocolBroken(
                f"the checksum of an event in {self.file} behind {self._offset} is wrong", cure="see the server's disk"
            )
        return body[:-4]

    def _ended(self, payload: bytes) -> SourceUnavailable | SourceInvalid | LogPurged | ProtocolBroken:
        if payload[0] == _ERROR:
            number = int.from_bytes(payload[1:3], "little")
            text = payload[3:].decode(errors="replace")
            text = text[6:] if text.startswith("#") else text
            return translation(pymysql.OperationalError(number, text), self._where)
        if payload[0] == _END:
            return SourceUnavailable("the server ended the stream of its binary log", where=self._where)
        return ProtocolBroken(f"the server sent a packet of the unknown kind {payload[0]}")
