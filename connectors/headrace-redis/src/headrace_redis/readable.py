"""Rows as the commands that Redis would run for them, for people.

Owns the text of a command. It is read from the very bytes that a flush would send.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from headrace.egress.explained import ROWS_MAX, left_out, shown
from headrace_redis.options import RedisOptions
from headrace_redis.rows import Prepared

VALUE_CHARACTERS_MAX = 100
_BARE = re.compile(r"[\w:./@+~*\\-]+")


def readable(prepared: Prepared, options: RedisOptions, key: str, positions: Mapping[int, int]) -> list[str]:
    """The commands of the first rows, and of the positions in the hash `key`."""
    rows = prepared.commands.rows
    lines = [each for row in rows[:ROWS_MAX] for each in _commands(_arguments(row.as_py()), options)]
    lines += left_out(len(rows) - ROWS_MAX, "rows")
    lines += [shown(f"-- refused, {each.code}: {each.message}") for each in prepared.refused[:ROWS_MAX]]
    lines += left_out(len(prepared.refused) - ROWS_MAX, "refused rows")
    moved = list(positions.items())
    lines.append(_line(b"HSET", key.encode(), *(b"%d" % number for each in moved[:ROWS_MAX] for number in each)))
    return [*lines, *left_out(len(moved) - ROWS_MAX, "positions")]


def emptying(options: RedisOptions, under: str, version: int) -> str:
    """What removes the rows from before a truncation."""
    return shown(f"UNLINK {under}* -- whose {options.version_field} is below {version}")


def _commands(row: Sequence[bytes], options: RedisOptions) -> Iterator[str]:
    """What the script does with the arguments of one row."""
    kind, key, *values = row
    if kind == b"X":
        most = () if options.stream_rows_max is None else (b"MAXLEN", b"~", b"%d" % options.stream_rows_max)
        yield _line(b"XADD", key, *most, b"*", *values[1:])
        return
    if options.version_field is not None:
        version, *values = values
        yield f"-- unless {options.version_field} is above {version.decode()}:"
    if kind == b"D":
        yield _line(b"UNLINK", key)
    elif kind == b"S":
        yield _line(b"SET", key, *values, *_expiry(options, b"EX"))
    elif kind == b"M":
        text, _, *left = values
        yield _line(b"SET", key, text, *_expiry(options, b"EX"))
        yield shown(f"-- with the {b' and '.join(left).decode()} that it has")
    else:
        if kind == b"H":
            yield _line(b"UNLINK", key)
        else:
            gone = int(values[0])
            if gone:
                yield _line(b"HDEL", key, *values[1 : gone + 1])
            values = values[gone + 1 :]
        yield _line(b"HSET", key, *values[1:])
        if options.ttl_seconds is not None:
            yield _line(b"EXPIRE", key, *_expiry(options))


def _expiry(options: RedisOptions, *words: bytes) -> tuple[bytes, ...]:
    return () if options.ttl_seconds is None else (*words, b"%d" % options.ttl_seconds)


def _arguments(row: bytes) -> list[bytes]:
    """Of the protocol's bytes: `$<length>\\r\\n<value>\\r\\n`, each."""
    found, at = [], 0
    while at < len(row):
        begin = row.index(b"\r\n", at) + 2
        end = begin + int(row[at + 1 : begin - 2])
        found.append(row[begin:end])
        at = end + 2
    return found


def _line(*arguments: bytes) -> str:
    return shown(" ".join(_argument(each) for each in arguments))


def _argument(value: bytes) -> str:
    text = shown(value, VALUE_CHARACTERS_MAX)
    return text if _BARE.fullmatch(text) else '"' + text.replace('"', '\\"') + '"'
