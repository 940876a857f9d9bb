"""The messages of PostgreSQL's `pgoutput` plugin, from bytes to values and back.

Owns protocol version 1, and version 2 where it streams transactions under way; knows no connection and no state.

- Every byte is accounted for: what is cut short, or has bytes left over, is `ProtocolBroken`, whatever came in.
- A value is its text as bytes, None, `UNCHANGED` (a large value that the update did not touch), or `Binary`.
- Inside a stream (version 2) most messages begin with the id of their (sub)transaction; the caller says where it is.
- `encode` is the inverse: what tests of readers are made of.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace.ingress.cdc.errors import ProtocolBroken as ProtocolBroken

EPOCH_US = 946_684_800_000_000
"""Microseconds from 1970 to 2000, where PostgreSQL's clock begins."""


class Unchanged:
    """Stands for a value that is stored apart (TOAST) and that an update did not touch."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()


@dataclass(frozen=True, slots=True)
class Binary:
    """A value in its type's binary form, which is only sent when it is asked for."""

    data: bytes


Value = bytes | Unchanged | Binary | None
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    final_lsn: int
    committed_at_us: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    lsn: int
    end_lsn: int
    committed_at_us: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    lsn: int
    name: str


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type_oid: int
    type_modifier: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """The shape of a table's rows from here on."""

    oid: int
    schema: str
    name: str
    replica_identity: str
    """`d` default, `f` full, `i` index, `n` nothing."""
    columns: tuple[Column, ...]
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Type:
    oid: int
    schema: str
    name: str
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    relation: int
    new: Row
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Update:
    relation: int
    new: Row
    old: Row | None = None
    is_key_only: bool = False
    """`old` has the columns of the replica identity alone; the others are None."""
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    relation: int
    old: Row
    is_key_only: bool = False
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    relations: tuple[int, ...]
    options: int = 0
    """1 cascade, 2 restart identity."""
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """What `pg_logical_emit_message` wrote."""

    lsn: int
    prefix: str
    content: bytes
    is_transactional: bool
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class StreamStart:
    xid: int
    is_first: bool


@dataclass(frozen=True, slots=True)
class StreamStop:
    pass


@dataclass(frozen=True, slots=True)
class StreamCommit:
    xid: int
    lsn: int
    end_lsn: int
    committed_at_us: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class StreamAbort:
    xid: int
    sub_xid: int


Message = (
    Begin
    | Commit
    | Origin
    | Relation
    | Type
    | Insert
    | Update
    | Delete
    | Truncate
    | LogicalMessage
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
)

_INT2, _INT4, _INT8 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_BEGIN, _COMMIT, _COLUMN = struct.Struct(">QqI"), struct.Struct(">BQQq"), struct.Struct(">Ii")
_STREAM_COMMIT, _PAIR = struct.Struct(">IBQQq"), struct.Struct(">II")
_TIME_RANGE_US = 2**63 - EPOCH_US


def decode(data: bytes, *, in_stream: bool = False) -> Message:
    """One message. Raises `ProtocolBroken`."""
    read = _READERS.get(data[:1])
    if read is None:
        raise _broken(data, "of an unknown kind")
    try:
        message, end = read(data, 1, in_stream)
    except (struct.error, IndexError) as error:
        raise _broken(data, "cut short") from error
    except UnicodeDecodeError as error:
        raise _broken(data, "with a name that is not UTF-8") from error
    if end != len(data):
        raise _broken(data, f"with {len(data) - end} bytes left over" if end < len(data) else "cut short")
    return message


def _broken(data: bytes, what: str) -> ProtocolBroken:
    return ProtocolBroken(
        f"the server sent a message {what} ({data[:1]!r}, {len(data)} bytes)",
        cure="check that the server is PostgreSQL 10 or newer and that nothing between changes what it sends",
    )


def _row(data: bytes, at: int) -> tuple[Row, int]:
    """The values of one row. The hot path: no helper is called for a value."""
    (count,) = _INT2.unpack_from(data, at)
    at += 2
    values: list[Value] = []
    for _ in range(count):
        kind = data[at]
        if kind == 0x74 or kind == 0x62:  # t, b
            (length,) = _INT4.unpack_from(data, at + 1)
            at += 5
            value = data[at : at + length]
            if len(value) != length:
                raise IndexError
            at += length
            values.append(value if kind == 0x74 else Binary(value))
        elif kind == 0x6E:  # n
            at += 1
            values.append(None)
        elif kind == 0x75:  # u
            at += 1
            values.append(UNCHANGED)
        else:
            raise _broken(data, f"with a value of the unknown kind {chr(kind)!r}")
    return tuple(values), at


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\0", at)
    if end < 0:
        raise IndexError
    return data[at:end].decode(), end + 1


def _xid(data: bytes, at: int, in_stream: bool) -> tuple[int | None, int]:
    return (_INT4.unpack_from(data, at)[0], at + 4) if in_stream else (None, at)


def _time_us(since_2000: int, data: bytes) -> int:
    if since_2000 >= _TIME_RANGE_US:
        raise _broken(data, "with a time beyond all ranges")
    return since_2000 + EPOCH_US


def _begin(data: bytes, at: int, _: bool) -> tuple[Message, int]:
    final_lsn, committed_at, xid = _BEGIN.unpack_from(data, at)
    return Begin(final_lsn, _time_us(committed_at, data), xid), at + _BEGIN.size


def _commit(data: bytes, at: int, _: bool) -> tuple[Message, int]:
    flags, lsn, end_lsn, committed_at = _COMMIT.unpack_from(data, at)
    return Commit(lsn, end_lsn, _time_us(committed_at, data), flags), at + _COMMIT.size


def _origin(data: bytes, at: int, _: bool) -> tuple[Message, int]:
    (lsn,) = _INT8.unpack_from(data, at)
    name, at = _text(data, at + 8)
    return Origin(lsn, name), at


def _relation(data: bytes, at: int, in_stream: bool) -> tuple[Message, int]:
    xid, at = _xid(data, at, in_stream)
    (oid,) = _INT4.unpack_from(data, at)
    schema, at = _text(data, at + 4)
    name, at = _text(data, at)
    identity = chr(data[at])
    (count,) = _INT2.unpack_from(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        is_key = data[at] & 1 == 1
        column, at = _text(data, at + 1)
        type_oid, modifier = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        columns.append(Column(column, type_oid, modifier, is_key))
    # An empty name of the schema is how the server says pg_catalog.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns), xid), at


def _type(data: bytes, at: int, in_stream: bool) -> tuple[Message, int]:
    xid, at = _xid(data, at, in_stream)
    (oid,) = _INT4.unpack_from(data, at)
    schema, at = _text(data, at + 4)
    name, at = _text(data, at)
    return Type(oid, schema or "pg_catalog", name, xid), at


def _insert(data: bytes, at: int, in_stream: bool) -> tuple[Message, int]:
    xid, at = _xid(data, at, in_stream)
    (relation,) = _INT4.unpack_from(data, at)
    if data[at + 4] != 0x4E:  # N
        raise _broken(data, "without the new row")
    row, at = _row(data, at + 5)
    return Insert(relation, row, xid), at


def _update(data: bytes, at: int, in_stream: bool) -> tuple[Message, int]:
    xid, at = _xid(data, at, in_stream)
    (relation,) = _INT4.unpack_from(data, at)
    at += 4
    old, kind = None, data[at]
    if kind in (0x4B, 0x4F):  # K, O
        old, at = _row(data, at + 1)
    if data[at] != 0x4E:  # N
        raise _broken(data, "without the new row")
    new, at = _row(data, at + 1)
    return Update(relation, new, old, kind == 0x4B, xid), at


def _delete(data: bytes, at: int, in_stream: bool) -> tuple[Message, int]:
    xid, at = _xid(data, at, in_stream)
    (relation,) = _INT4.unpack_from(data, at)
    kind = data[at + 4]
    if kind not in (0x4B, 0x4F):  # K, O
        raise _broken(data, "without the old row")
    old, at = _row(data, at + 5)
    return Delete(relation, old, kind == 0x4B, xid), at


def _truncate(data: bytes, at: int, in_stream: bool) -> tuple[Message, int]:
    xid, at = _xid(data, at, in_stream)
    (count,) = _INT4.unpack_from(data, at)
    options = data[at + 4]
    at += 5
    if count * 4 > len(data) - at:
        raise IndexError
    return Truncate(struct.unpack_from(f">{count}I", data, at), options, xid), at + count * 4


def _logical_message(data: bytes, at: int, in_stream: bool) -> tuple[Message, int]:
    xid, at = _xid(data, at, in_stream)
    flags = data[at]
    (lsn,) = _INT8.unpack_from(data, at + 1)
    prefix, at = _text(data, at + 9)
    (length,) = _INT4.unpack_from(data, at)
    content = data[at + 4 : at + 4 + length]
    return LogicalMessage(lsn, prefix, content, flags & 1 == 1, xid), at + 4 + length


def _stream_start(data: bytes, at: int, _: bool) -> tuple[Message, int]:
    (xid,) = _INT4.unpack_from(data, at)
    return StreamStart(xid, data[at + 4] == 1), at + 5


def _stream_stop(data: bytes, at: int, _: bool) -> tuple[Message, int]:
    return StreamStop(), at


def _stream_commit(data: bytes, at: int, _: bool) -> tuple[Message, int]:
    xid, flags, lsn, end_lsn, committed_at = _STREAM_COMMIT.unpack_from(data, at)
    return StreamCommit(xid, lsn, end_lsn, _time_us(committed_at, data), flags), at + _STREAM_COMMIT.size


def _stream_abort(data: bytes, at: int, _: bool) -> tuple[Message, int]:
    xid, sub_xid = _PAIR.unpack_from(data, at)
    return StreamAbort(xid, sub_xid), at + _PAIR.size


_READERS: dict[bytes, Callable[[bytes, int, bool], tuple[Message, int]]] = {
    b"B": _begin,
    b"C": _commit,
    b"O": _origin,
    b"R": _relation,
    b"Y": _type,
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"T": _truncate,
    b"M": _logical_message,
    b"S": _stream_start,
    b"E": _stream_stop,
    b"c": _stream_commit,
    b"A": _stream_abort,
}


def encode(message: Message) -> bytes:
    """The bytes of a message, as the server sends them."""
    xid = getattr(message, "xid", None)
    head = b"" if xid is None or isinstance(message, Begin) else _INT4.pack(xid)
    match message:
        case Begin(final_lsn, committed_at_us, own):
            return b"B" + _BEGIN.pack(final_lsn, committed_at_us - EPOCH_US, own)
        case Commit(lsn, end_lsn, committed_at_us, flags):
            return b"C" + _COMMIT.pack(flags, lsn, end_lsn, committed_at_us - EPOCH_US)
        case Origin(lsn, name):
            return b"O" + _INT8.pack(lsn) + _zero(name)
        case Relation(oid, schema, name, identity, columns):
            listed = b"".join(
                bytes([each.is_key]) + _zero(each.name) + _COLUMN.pack(each.type_oid, each.type_modifier)
                for each in columns
            )
            names = _zero("" if schema == "pg_catalog" else schema) + _zero(name)
            return b"R" + head + _INT4.pack(oid) + names + identity.encode() + _INT2.pack(len(columns)) + listed
        case Type(oid, schema, name):
            return b"Y" + head + _INT4.pack(oid) + _zero("" if schema == "pg_catalog" else schema) + _zero(name)
        case Insert(relation, new):
            return b"I" + head + _INT4.pack(relation) + b"N" + _encoded_row(new)
        case Update(relation, new, old, is_key_only):
            before = b"" if old is None else (b"K" if is_key_only else b"O") + _encoded_row(old)
            return b"U" + head + _INT4.pack(relation) + before + b"N" + _encoded_row(new)
        case Delete(relation, old, is_key_only):
            return b"D" + head + _INT4.pack(relation) + (b"K" if is_key_only else b"O") + _encoded_row(old)
        case Truncate(relations, options):
            return b"T" + head + _INT4.pack(len(relations)) + bytes([options]) + b"".join(map(_INT4.pack, relations))
        case LogicalMessage(lsn, prefix, content, is_transactional):
            middle = bytes([is_transactional]) + _INT8.pack(lsn) + _zero(prefix)
            return b"M" + head + middle + _INT4.pack(len(content)) + content
        case StreamStart(own, is_first):
            return b"S" + _INT4.pack(own) + bytes([is_first])
        case StreamStop():
            return b"E"
        case StreamCommit(own, lsn, end_lsn, committed_at_us, flags):
            return b"c" + _STREAM_COMMIT.pack(own, flags, lsn, end_lsn, committed_at_us - EPOCH_US)
        case StreamAbort(own, sub_xid):
            return b"A" + _PAIR.pack(own, sub_xid)


def _zero(name: str) -> bytes:
    return name.encode() + b"\0"


def _encoded_row(row: Row) -> bytes:
    parts = [_INT2.pack(len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, Unchanged):
            parts.append(b"u")
        elif isinstance(value, Binary):
            parts.append(b"b" + _INT4.pack(len(value.data)) + value.data)
        else:
            parts.append(b"t" + _INT4.pack(len(value)) + value)
    return b"".join(parts)


def lsn_text(lsn: int) -> str:
    """As PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """Of what PostgreSQL writes."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)
