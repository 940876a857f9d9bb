"""What Redis runs for a flush.

Owns the Lua script that writes rows and positions, and its arguments.

- Redis runs a script alone: positions are compared, rows written and positions moved, with nobody in between.
- A script that fails leaves the positions where they were. Redis takes back nothing, so the first write of all is one
  that Redis refuses when it is out of memory, and what may fail later is looked at before: the types of its keys.
- Rows reach Redis as columns joined to the bytes of its protocol: no command is built for a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

BYTES = pa.large_binary()
_BEGIN = b"""
local positions, stream = KEYS[1], KEYS[2]
local at = 0
local function take() at = at + 1; return ARGV[at] end

local function check(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= wanted then
    return redis.error_reply('HEADRACEKEY ' .. key .. ' holds a ' .. kind .. ', not a ' .. wanted)
  end
end
"""
SCRIPT = (
    _BEGIN
    + b"""
local ttl, rows_max, count = tonumber(take()), tonumber(take()), tonumber(take())
local wrong = check(positions, 'hash') or (stream and check(stream, 'stream'))
if wrong then return wrong end

local moves = {}
for _ = 1, count do
  local partition, expected, following = take(), take(), take()
  local held = redis.call('HGET', positions, partition) or ''
  if held ~= expected then return {partition, held} end
  moves[#moves + 1] = partition
  moves[#moves + 1] = following
end

redis.call('HSET', positions, 'writing', '1')
while at < #ARGV do
  local kind = take()
  if kind == 'D' then
    redis.call('UNLINK', take())
  elseif kind == 'S' then
    local key, text = take(), take()
    if ttl > 0 then redis.call('SET', key, text, 'EX', ttl) else redis.call('SET', key, text) end
  else
    local key, length = take(), tonumber(take())
    if kind == 'H' then
      redis.call('UNLINK', key)
      redis.call('HSET', key, unpack(ARGV, at + 1, at + length))
      if ttl > 0 then redis.call('EXPIRE', key, ttl) end
    elseif rows_max > 0 then
      redis.call('XADD', key, 'MAXLEN', '~', rows_max, '*', unpack(ARGV, at + 1, at + length))
    else
      redis.call('XADD', key, '*', unpack(ARGV, at + 1, at + length))
    end
    at = at + length
  end
end
redis.call('HDEL', positions, 'writing')
if #moves > 0 then redis.call('HSET', positions, unpack(moves)) end
return 'OK'
"""
)
CHECK_SCRIPT = (
    _BEGIN
    + b"""
local refused = {}
while at < #ARGV do
  local length = tonumber(take())
  -- Since Redis 7.0; an older one tells of a missing right when a row comes.
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(ARGV, at + 1, at + length)) then
    refused[#refused + 1] = ARGV[at + 1]
  end
  at = at + length
end
if #refused > 0 then return refused end
return check(positions, 'hash') or (stream and check(stream, 'stream')) or refused
"""
)
"""Writes nothing. Its arguments are commands, each behind their number; it returns the names of those that the user may
not run."""
FIELDS_MAX = 3_000
"""Columns of a row, for Lua gives no more than 8,000 values to a command."""
PARTITIONS_MAX = 2_000
"""That move in one script, for the same reason."""


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
    *,
    ttl_seconds: int | None,
    stream_rows_max: int | None,
) -> list[bytes | memoryview]:
    """The whole command. `moves`: by partition, the position that Redis must hold and the one that it then gets."""
    given = [str(ttl_seconds or 0), str(stream_rows_max or 0), str(len(moves))]
    for partition, (held, following) in moves.items():
        given += [str(partition), "" if held is None else str(held), str(following)]
    head = [b"EVAL", SCRIPT, b"%d" % len(keys), *(text.encode() for text in (*keys, *given))]
    count = len(head) + sum(each.arguments for each in commands)
    begin = b"*%d\r\n" % count + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in head)
    return [begin, *(joined for each in commands if len(joined := _bytes(each.rows)))]


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


def _constant(value: bytes) -> pa.Scalar:
    return pa.scalar(b"$%d\r\n%s\r\n" % (len(value), value), BYTES)


def _bytes(rows: pa.LargeBinaryArray) -> memoryview:
    """All rows behind each other, as they lie in memory."""
    if not len(rows):
        return memoryview(b"")
    offsets = memoryview(rows.buffers()[1]).cast("q")
    return memoryview(rows.buffers()[2])[offsets[rows.offset] : offsets[rows.offset + len(rows)]]


_END = pa.scalar(b"\r\n", BYTES)
_NOTHING = pa.scalar(b"", BYTES)
