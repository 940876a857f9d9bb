"""Large transactions, which the server sends while they are under way, until they commit.

Owns `TransactionFeed`: between the connection and who reads changes, who sees whole transactions in commit order alone.

- What is under way is in files without a name, which end with the process: nothing is left of it after any death.
- A transaction that aborts is forgotten, and so are the rows of a part of it (subtransaction) that was rolled back.
- On its commit it is read from its file, message by message, as the server would have sent it afterwards.
- Shapes of tables stay even of rolled back parts: the server tells them once in a transaction.
- The files have a limit together. Beyond it `SpoolFull`: who asks the server not to stream goes on, slower.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Protocol

from headrace.ingress.cdc.postgres import messages
from headrace.ingress.cdc.postgres.messages import ProtocolBroken

ABSORBED_BYTES_MAX = 8 * 1024 * 1024
"""Put into files by one `receive`: in between others get their turn, and the server hears of us."""
BUFFER_BYTES = 256 * 1024
_HEAD = struct.Struct(">QII")
_XID_AT, _XID_BYTES = 1, 4
_WITH_XID = frozenset((b"R", b"Y", b"I", b"U", b"D", b"T", b"M"))
_SHAPES = frozenset((b"R", b"Y"))


class SpoolFull(Exception):
    """Transactions under way take more of the disk than they may, or than there is."""


class Receiver(Protocol):
    """Where messages come from."""

    def receive(self) -> tuple[int, bytes] | None: ...


@dataclass(slots=True)
class _Spool:
    """One transaction under way."""

    file: IO[bytes]
    size_bytes: int = 0
    aborted: set[int] = field(default_factory=set)
    """Parts that were rolled back."""

    def add(self, start: int, data: bytes) -> int:
        """Keep a message of a stream; returns how many bytes that took."""
        if data[:1] == b"O":
            return 0  # Where a replicated transaction came from concerns nobody.
        if data[:1] not in _WITH_XID or len(data) < _XID_AT + _XID_BYTES:
            raise ProtocolBroken(f"the server sent a message of kind {data[:1]!r} inside a streamed transaction")
        xid = int.from_bytes(data[_XID_AT : _XID_AT + _XID_BYTES], "big")
        message = data[:_XID_AT] + data[_XID_AT + _XID_BYTES :]
        self.file.write(_HEAD.pack(start, xid, len(message)))
        self.file.write(message)
        size = _HEAD.size + len(message)
        self.size_bytes += size
        return size

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """What was not rolled back, from the beginning."""
        self.file.seek(0)
        while head := self.file.read(_HEAD.size):
            start, xid, size = _HEAD.unpack(head)
            message = self.file.read(size)
            assert len(message) == size, "a file of ours is cut short"
            if xid not in self.aborted or message[:1] in _SHAPES:
                yield start, message


class TransactionFeed:
    """The messages of one started stream as version 1 of the protocol has them."""

    def __init__(self, replication: Receiver, spool_bytes_max: int) -> None:
        self._replication, self._spool_bytes_max = replication, spool_bytes_max
        self._spools: dict[int, _Spool] = {}
        self._filling: _Spool | None = None
        """Of the block that the server sends just now."""
        self._replayed: Iterator[tuple[int, bytes]] | None = None
        self.is_busy = False
        """Whether the last `receive` gave nothing although more is there."""
        self.spooled_bytes = 0
        """In files now."""
        self.streamed = 0
        """Transactions that came from files."""

    def close(self) -> None:
        """Forget what is under way."""
        self._replayed = self._filling = None
        for spool in self._spools.values():
            spool.file.close()
        self._spools, self.spooled_bytes = {}, 0

    def receive(self) -> tuple[int, bytes] | None:
        """The next message with its place in the log; None when none is there. Raises `SpoolFull`."""
        self.is_busy, absorbed = False, 0
        while absorbed < ABSORBED_BYTES_MAX:
            if self._replayed is not None:
                found = next(self._replayed, None)
                if found is not None:
                    return found
                self._replayed = None
            received = self._replication.receive()
            if received is None:
                return None
            kept = self._absorbed(*received)
            if kept is None:
                return received
            absorbed += kept
        self.is_busy = True
        return None

    def _absorbed(self, start: int, data: bytes) -> int | None:
        """How many bytes were put aside; None for a message that is to be passed on."""
        kind = data[:1]
        if self._filling is not None:
            if kind == b"E":
                self._filling = None
                return 0
            return self._kept(self._filling, start, data)
        if kind not in (b"S", b"E", b"c", b"A"):
            return None
        match messages.decode(data):
            case messages.StreamStart(xid, is_first):
                self._begin(xid, is_first)
            case messages.StreamCommit() as commit:
                self._replayed = self._replay(commit, self._complete(commit.xid))
            case messages.StreamAbort(xid, sub_xid):
                self._abort(xid, sub_xid)
            case _:
                raise ProtocolBroken("the server ended a block of a transaction that it had not begun")
        return 0

    def _kept(self, spool: _Spool, start: int, data: bytes) -> int:
        if self.spooled_bytes + len(data) > self._spool_bytes_max:
            raise SpoolFull(f"transactions under way take more than {self._spool_bytes_max} bytes")
        try:
            size = spool.add(start, data)
        except OSError as error:
            raise SpoolFull(f"a transaction under way cannot be kept: {error}") from error
        self.spooled_bytes += size
        return size

    def _begin(self, xid: int, is_first: bool) -> None:
        if is_first == (xid in self._spools):
            raise ProtocolBroken(f"the server {'began' if is_first else 'went on with'} transaction {xid} wrongly")
        if is_first:
            file = tempfile.TemporaryFile(buffering=BUFFER_BYTES, prefix="headrace-")  # noqa: SIM115 - ended by `close`
            self._spools[xid] = _Spool(file)
        self._filling = self._spools[xid]

    def _complete(self, xid: int) -> _Spool:
        spool = self._spools.pop(xid, None)
        if spool is None:
            raise ProtocolBroken(f"the server committed transaction {xid}, of which it has told nothing")
        try:
            spool.file.flush()
        except OSError as error:
            raise SpoolFull(f"a transaction under way cannot be kept: {error}") from error
        return spool

    def _abort(self, xid: int, sub_xid: int) -> None:
        if sub_xid != xid:
            if xid in self._spools:
                self._spools[xid].aborted.add(sub_xid)
            return
        spool = self._spools.pop(xid, None)
        if spool is not None:
            self.spooled_bytes -= spool.size_bytes
            spool.file.close()

    def _replay(self, commit: messages.StreamCommit, spool: _Spool) -> Iterator[tuple[int, bytes]]:
        self.streamed += 1
        yield commit.lsn, messages.encode(messages.Begin(commit.lsn, commit.committed_at_us, commit.xid))
        try:
            yield from spool.messages()
        finally:
            spool.file.close()
            self.spooled_bytes -= spool.size_bytes
        end = messages.Commit(commit.lsn, commit.end_lsn, commit.committed_at_us, commit.flags)
        yield commit.end_lsn, messages.encode(end)
