"""The arguments of the scripts that Redis runs for a flush.

Owns their form, in the bytes of Redis' protocol.

- Rows reach Redis as columns joined to those bytes: no command is built for a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headrace_redis.lua import EMPTY_SCRIPT, SCRIPT
from headrace_redis.options import RedisOptions

BYTES = pa.large_binary()
FIELDS_MAX = 3_000
"""Columns of a row, for Lua gives no more than 8,000 values to a command."""
PARTITIONS_MAX = 2_000
"""That move in one script, for the same reason."""


EMPTIED_KEYS = 2_000
"""That one step of a truncation looks at, about: some milliseconds, in which Redis serves nobody else."""
_GLOB = re.compile(r"[*?\[\]\\^-]")


@dataclass(frozen=True, slots=True)
class Commands:
    """Rows as arguments of the script, in the protocol's bytes."""

    rows: pa.LargeBinaryArray
    arguments: int
    """How many there are in all rows."""


def request(
    keys: Sequence[str],
    moves: Mapping[int, tuple[int | None, int]],
    commands: Sequence[Commands],
    options: RedisOptions,
) -> list[bytes | memoryview]:
    """The whole command. `moves`: by partition, the position that Redis must hold and the one that it then gets."""
    bounds = [str(options.ttl_seconds or 0), str(options.stream_rows_max or 0), str(len(moves))]
    places = [
        text
        for partition, (held, following) in moves.items()
        for text in (str(partition), _position(held), str(following))
    ]
    head = [b"EVAL", SCRIPT, b"%d" % len(keys), *_encoded(*keys, *_rows_are(options), *bounds, *places)]
    count = len(head) + sum(each.arguments for each in commands)
    return [_protocol(head, count), *(joined for each in commands if len(joined := _bytes(each.rows)))]


def empty_request(
    key: str, held: Mapping[int, int | None], options: RedisOptions, under: str, version: int, cursor: bytes
) -> list[bytes | memoryview]:
    """One step of removing the rows under this prefix that are older than `version`. `held`: the positions that Redis
    must hold."""
    pattern = _GLOB.sub(r"\\\g<0>", under) + "*"
    begin = [str(version), pattern, cursor.decode(), str(EMPTIED_KEYS), str(len(held))]
    places = [text for partition, offset in held.items() for text in (str(partition), _position(offset))]
    head = [b"EVAL", EMPTY_SCRIPT, b"1", *_encoded(key, *_rows_are(options), *begin, *places)]
    return [_protocol(head, len(head))]


def argument(values: pa.Array) -> pa.Array:
    """Each value as an argument; nothing where it is null."""
    values = values.cast(BYTES)
    lengths = pc.binary_length(values).cast(pa.large_string()).cast(BYTES)
    pieces = [pa.scalar(b"$", BYTES), lengths, _END, values, _END]
    return pc.binary_join_element_wise(*pieces, _NOTHING)


def joined(*pieces: pa.Array | bytes) -> pa.LargeBinaryArray:
    """Arguments of each row in this order; null is nothing, bytes are the same argument in each row."""
    columns = [_constant(each) if isinstance(each, bytes) else pc.fill_null(each, b"") for each in pieces]
    return pc.binary_join_element_wise(*columns, _NOTHING)


def fields(columns: Mapping[str, pa.Array]) -> tuple[pa.Array, pa.Array]:
    """Names and values of those columns that are not null as arguments, behind their number; and that number."""
    number = pa.array([0] * len(next(iter(columns.values()))), pa.int64())
    pieces: list[pa.Array] = []
    for name, values in columns.items():
        number = pc.add(number, pc.if_else(pc.is_valid(values), 2, 0))
        pieces.append(pc.binary_join_element_wise(_constant(name.encode()), argument(values), _NOTHING))
    return joined(argument(number.cast(pa.large_string())), *pieces), number


def _rows_are(options: RedisOptions) -> tuple[str, str]:
    return options.format.value, options.version_field or ""


def _position(offset: int | None) -> str:
    return "" if offset is None else str(offset)


def _encoded(*texts: str) -> list[bytes]:
    return [text.encode() for text in texts]


def _protocol(head: Sequence[bytes], count: int) -> bytes:
    """The first arguments of a command of so many."""
    return b"*%d\r\n" % count + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in head)


def _constant(value: bytes) -> pa.Scalar:
    return pa.scalar(b"$%d\r\n%s\r\n" % (len(value), value), BYTES)


def names(columns: Mapping[bytes, pa.Array]) -> tuple[pa.Array, pa.Array]:
    """Names of those columns that are true as arguments, behind their number; and that number."""
    number = pa.array([0] * len(next(iter(columns.values()))), pa.int64())
    pieces: list[pa.Array] = []
    for name, is_named in columns.items():
        number = pc.add(number, pc.if_else(is_named, 1, 0))
        pieces.append(pc.if_else(is_named, _constant(name), _NOTHING))
    return joined(argument(number.cast(pa.large_string())), *pieces), number


def _bytes(rows: pa.LargeBinaryArray) -> memoryview:
    """All rows behind each other, as they lie in memory."""
    if not len(rows):
        return memoryview(b"")
    offsets = memoryview(rows.buffers()[1]).cast("q")
    return memoryview(rows.buffers()[2])[offsets[rows.offset] : offsets[rows.offset + len(rows)]]


_END = pa.scalar(b"\r\n", BYTES)
_NOTHING = pa.scalar(b"", BYTES)
