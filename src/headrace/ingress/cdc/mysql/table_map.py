"""What the binary log tells of a table before rows of it: its columns by name, their types and character sets.

Owns the reading of TABLE_MAP events under `binlog_row_metadata=FULL`, and the choice of a reader for each column.

- Nothing is taken from the table as it is now, but whether sixteen bytes are a `uuid`: the log does not tell.
- An event without names of columns stops: rows are never read by the position of their columns alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.mysql import row_images
from headrace.ingress.cdc.mysql.charsets import BINARY, Charsets, Recode
from headrace.ingress.cdc.mysql.packed_decimal import decimal
from headrace.ingress.cdc.mysql.row_images import Read, length
from headrace.ingress.cdc.mysql.types import Family, MysqlType

_TINY, _SHORT, _LONG, _FLOAT, _DOUBLE, _LONGLONG, _INT24, _DATE = 1, 2, 3, 4, 5, 8, 9, 10
_OLD_TIMES = {7: "timestamp", 11: "time", 12: "datetime"}
_YEAR, _NEWDATE, _VARCHAR, _BIT, _TIMESTAMP, _DATETIME, _TIME = 13, 14, 15, 16, 17, 18, 19
_BLOB_COMPRESSED, _VARCHAR_COMPRESSED, _VECTOR, _JSON, _NEWDECIMAL = 140, 141, 242, 245, 246
_ENUM, _SET, _BLOB, _VAR_STRING, _STRING, _GEOMETRY = 247, 248, 252, 253, 254, 255
_INTEGERS = {_TINY: (1, "tinyint"), _SHORT: (2, "smallint"), _INT24: (3, "mediumint"), _LONG: (4, "int")}
_INTEGERS[_LONGLONG] = (8, "bigint")
_NUMERIC = frozenset({*_INTEGERS, _FLOAT, _DOUBLE, _NEWDECIMAL, _YEAR})
# MySQL writes a set of characters for a vector too.
_CHARACTERS = frozenset({_VARCHAR, _VAR_STRING, _STRING, _BLOB, _BLOB_COMPRESSED, _VARCHAR_COMPRESSED, _VECTOR})
_ONE_META_BYTE = frozenset({_FLOAT, _DOUBLE, _TIMESTAMP, _DATETIME, _TIME, _BLOB, _GEOMETRY, _JSON, _VECTOR})
_ONE_META_BYTE |= {_BLOB_COMPRESSED}
_TWO_META_BYTES = frozenset({_VARCHAR, _BIT, _NEWDECIMAL, _VAR_STRING, _STRING, _VARCHAR_COMPRESSED})
_SIGNS, _DEFAULT_CHARSET, _COLUMN_CHARSETS, _NAMES, _SET_LABELS, _ENUM_LABELS = 1, 2, 3, 4, 5, 6
_LABELS_DEFAULT_CHARSET, _LABELS_CHARSETS = 10, 11

Declared = Mapping[str, MysqlType]
"""The columns of a table as its catalogue has them now."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table as the rows behind its event have it."""

    schema: str
    table: str
    types: tuple[tuple[str, MysqlType], ...]
    readers: tuple[Read, ...]


def table_name(body: bytes) -> tuple[int, str, str, int]:
    """Number, schema and name of the event's table, and the place behind them."""
    number = int.from_bytes(body[:6], "little")
    at = 8
    schema = body[at + 1 : at + 1 + body[at]].decode()
    at += body[at] + 2
    table = body[at + 1 : at + 1 + body[at]].decode()
    return number, schema, table, at + body[at] + 2


def table_shape(body: bytes, charsets: Charsets, declared: Declared, *, is_mariadb: bool) -> TableShape:
    """The shape that a TABLE_MAP event tells. Raises `SourceInvalid`."""
    _, schema, table, at = table_name(body)
    count, at = length(body, at)
    kinds = list(body[at : at + count])
    metadata_bytes, at = length(body, at + count)
    metadata = _metadata(kinds, body, at)
    told = _told(body, at + metadata_bytes + (count + 7) // 8)
    if _NAMES not in told:
        raise SourceInvalid(
            f"the server wrote rows of table {schema}.{table} without the names of their columns",
            cure="SET GLOBAL binlog_row_metadata = 'FULL', then raise `generation` in the ingress file",
        )
    names = [name.decode() for name in _texts(told[_NAMES])]
    columns = _Columns(kinds, metadata, told, charsets, is_mariadb=is_mariadb)
    made = [columns.made(index, name, declared.get(name)) for index, name in enumerate(names)]
    types = tuple((name, found) for name, (found, _) in zip(names, made, strict=True))
    return TableShape(schema, table, types, tuple(read for _, read in made))


def _metadata(kinds: list[int], body: bytes, at: int) -> list[int]:
    """What each type says of itself. What stands behind `string` in truth replaces it in `kinds`."""
    found = []
    for index, kind in enumerate(kinds):
        if kind in _ONE_META_BYTE:
            found.append(body[at])
            at += 1
        elif kind in _TWO_META_BYTES:
            first, second = body[at], body[at + 1]
            at += 2
            if kind == _STRING:
                if first in (_ENUM, _SET):
                    kinds[index] = first
                    found.append(second)
                else:
                    found.append((((first << 4) & 0x300) ^ 0x300) + second)
            else:
                found.append(first | second << 8)
        else:
            found.append(0)
    return found


def _told(body: bytes, at: int) -> dict[int, bytes]:
    """The optional metadata by kind."""
    found = {}
    while at < len(body):
        kind = body[at]
        size, at = length(body, at + 1)
        found[kind] = body[at : at + size]
        at += size
    return found


def _texts(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        size, at = length(data, at)
        found.append(data[at : at + size])
        at += size
    return found


def _numbers(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        number, at = length(data, at)
        found.append(number)
    return found


def _label_lists(data: bytes) -> list[list[bytes]]:
    found, at = [], 0
    while at < len(data):
        count, at = length(data, at)
        labels = []
        for _ in range(count):
            size, at = length(data, at)
            labels.append(data[at : at + size])
            at += size
        found.append(labels)
    return found


class _Columns:
    """Makes types and readers of one event's columns."""

    def __init__(
        self, kinds: list[int], metadata: list[int], told: Mapping[int, bytes], charsets: Charsets, *, is_mariadb: bool
    ) -> None:
        self._kinds, self._metadata, self._charsets, self._is_mariadb = kinds, metadata, charsets, is_mariadb
        characters = [at for at, kind in enumerate(kinds) if self._has_characters(kind)]
        labelled = [at for at, kind in enumerate(kinds) if kind in (_ENUM, _SET)]
        self._collations = {
            **_collations(characters, told.get(_DEFAULT_CHARSET), told.get(_COLUMN_CHARSETS)),
            **_collations(labelled, told.get(_LABELS_DEFAULT_CHARSET), told.get(_LABELS_CHARSETS)),
        }
        signs = told.get(_SIGNS, b"")
        numeric = [at for at, kind in enumerate(kinds) if kind in _NUMERIC]
        self._unsigned = {
            at for place, at in enumerate(numeric) if place // 8 < len(signs) and signs[place // 8] << place % 8 & 0x80
        }
        enums, sets = ([at for at in labelled if kinds[at] == kind] for kind in (_ENUM, _SET))
        self._labels = {
            **dict(zip(enums, _label_lists(told.get(_ENUM_LABELS, b"")), strict=True)),
            **dict(zip(sets, _label_lists(told.get(_SET_LABELS, b"")), strict=True)),
        }

    def _has_characters(self, kind: int) -> bool:
        return kind in _CHARACTERS or (kind == _GEOMETRY and self._is_mariadb)

    def _charset(self, index: int) -> str:
        return self._charsets.name_of(self._collations[index])

    def made(self, index: int, name: str, declared: MysqlType | None) -> tuple[MysqlType, Read]:
        """Type and reader of a column."""
        kind, meta = self._kinds[index], self._metadata[index]
        if kind in _INTEGERS:
            size, called = _INTEGERS[kind]
            is_unsigned = index in self._unsigned
            return MysqlType(called, Family.INT, is_unsigned), row_images.integer(size, is_unsigned=is_unsigned)
        if kind == _NEWDECIMAL:
            precision, scale = meta & 0xFF, meta >> 8
            return MysqlType("decimal", Family.NUMERIC, False, precision, scale), decimal(precision, scale)
        if kind == _BIT:
            width = (meta & 0xFF) + (meta >> 8) * 8
            return MysqlType("bit", Family.BITS, precision=width), row_images.bits((width + 7) // 8)
        if kind in (_VARCHAR, _VAR_STRING, _STRING):
            return self._string(index, kind, meta, declared)
        if kind in (_ENUM, _SET):
            return self._labelled(index, kind, meta)
        if kind == _BLOB:
            charset = self._charset(index)
            if charset == BINARY:
                return MysqlType("blob", Family.BYTES), row_images.sized(meta)
            return MysqlType("text", Family.TEXT), row_images.sized(meta, self._charsets.recode(charset))
        return _simple(kind, meta, name)

    def _string(self, index: int, kind: int, meta: int, declared: MysqlType | None) -> tuple[MysqlType, Read]:
        prefix, charset = (2 if meta > 255 else 1), self._charset(index)
        if charset != BINARY:
            called = "char" if kind == _STRING else "varchar"
            return MysqlType(called, Family.TEXT), row_images.sized(prefix, self._charsets.recode(charset))
        if kind != _STRING:
            return MysqlType("varbinary", Family.BYTES), row_images.sized(prefix)
        if declared is not None and declared.family is Family.UUID and meta == 16:
            return declared, row_images.uuid_text
        if declared is not None and declared.family is Family.INET and meta in (4, 16):
            return declared, row_images.inet(meta)
        return MysqlType("binary", Family.BYTES), row_images.padded(row_images.sized(prefix), meta)

    def _labelled(self, index: int, kind: int, meta: int) -> tuple[MysqlType, Read]:
        recode: Recode | None = self._charsets.recode(self._charset(index))
        labels = [label if recode is None else recode(label) for label in self._labels[index]]
        texts = tuple(label.decode(errors="replace") for label in labels)
        if kind == _ENUM:
            return MysqlType("enum", Family.TEXT, labels=texts), row_images.enum(meta, labels)
        return MysqlType("set", Family.TEXT, labels=texts), row_images.flags(meta, labels)


def _collations(columns: list[int], default: bytes | None, each: bytes | None) -> dict[int, int]:
    """The collation of each of these columns."""
    if each is not None:
        return dict(zip(columns, _numbers(each), strict=True))
    if default is None:
        return {}
    first, *pairs = _numbers(default)
    found = dict.fromkeys(columns, first)
    for place, number in zip(pairs[::2], pairs[1::2], strict=True):
        found[columns[place]] = number
    return found


def _simple(kind: int, meta: int, name: str) -> tuple[MysqlType, Read]:
    match kind:
        case 4:
            return MysqlType("float", Family.FLOAT), row_images.single
        case 5:
            return MysqlType("double", Family.FLOAT), row_images.double
        case 13:
            return MysqlType("year", Family.INT), row_images.year
        case 10 | 14:
            return MysqlType("date", Family.DATE), row_images.day
        case 17:
            return MysqlType("timestamp", Family.TIMESTAMP), row_images.timestamp(meta)
        case 18:
            return MysqlType("datetime", Family.DATETIME), row_images.moment(meta)
        case 19:
            return MysqlType("time", Family.TIME), row_images.span(meta)
        case 245:
            return MysqlType("json", Family.TEXT), row_images.json(meta)
        case 255:
            return MysqlType("geometry", Family.GEOMETRY), row_images.sized(meta)
        case 242:
            return MysqlType("vector", Family.UNMAPPED), row_images.sized(meta)
        case 140:
            return MysqlType("compressed blob", Family.UNMAPPED), row_images.sized(meta)
        case 141:
            return MysqlType("compressed varchar", Family.UNMAPPED), row_images.sized(2 if meta > 255 else 1)
    old = _OLD_TIMES.get(kind)
    what = f"a {old} in the form of before MySQL 5.6" if old else f"of the type number {kind}"
    raise SourceInvalid(
        f"column {name!r} is {what}, which cannot be read from the binary log",
        cure="ALTER TABLE ... FORCE writes old times anew; take a table with unknown types out of the ingress",
    )
