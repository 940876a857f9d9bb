"""Text of any of the server's character sets as UTF-8.

Owns `Charsets`: which character set a collation number of the binary log stands for, and how its bytes are read.

- A set of single bytes is read by a table that the server itself fills, since Python's codecs differ in places.
- Bytes that are no text of their set stay as they are, and do not become a contract's string later.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.ingress.cdc.errors import SourceInvalid

Recode = Callable[[bytes], bytes]
Query = Callable[[str], Sequence[tuple[Any, ...]]]
BINARY = "binary"
UTF8_SETS = frozenset({"utf8", "utf8mb3", "utf8mb4", "ascii"})
_UNDEFINED = "\ufffe"
_CODECS: Mapping[str, str] = {
    "big5": "big5",
    "ujis": "euc_jp",
    "eucjpms": "euc_jp",
    "sjis": "shift_jis",
    "cp932": "cp932",
    "euckr": "euc_kr",
    "gb2312": "gb2312",
    "gbk": "gbk",
    "gb18030": "gb18030",
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
}


class Charsets:
    """The character sets of one server. `query` asks it, in a session of utf8mb4."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._names: dict[int, str] = {}
        self._recodes: dict[str, Recode | None] = {}

    def name_of(self, collation: int) -> str:
        """The character set of a collation."""
        if not self._names:
            self._load()
        if collation not in self._names:
            raise SourceInvalid(f"collation {collation}, which the server writes of, is not among those that it lists")
        return self._names[collation]

    def recode(self, charset: str) -> Recode | None:
        """What makes UTF-8 of a text of this set; None where there is nothing to do."""
        if charset in UTF8_SETS or charset == BINARY:
            return None
        if charset not in self._recodes:
            name = _CODECS.get(charset)
            self._recodes[charset] = _by_codec(name) if name else _by_table(self._table(charset))
        return self._recodes[charset]

    def _load(self) -> None:
        # MariaDB lists collations that several sets share without their set and number, but here.
        columns = self._query(
            "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'information_schema'"
            " AND table_name = 'COLLATION_CHARACTER_SET_APPLICABILITY' AND column_name = 'ID'"
        )
        table = "COLLATION_CHARACTER_SET_APPLICABILITY" if columns[0][0] else "COLLATIONS"
        rows = self._query(f"SELECT id, character_set_name FROM information_schema.{table} WHERE id IS NOT NULL")
        self._names = {int(number): str(name) for number, name in rows if name}

    def _table(self, charset: str) -> str:
        """The character of each byte, as the server has it."""
        known = self._query(
            f"SELECT maxlen FROM information_schema.character_sets WHERE character_set_name = '{charset}'"
        )
        if not known or known[0][0] != 1:
            raise SourceInvalid(
                f"character set {charset!r} cannot be read",
                cure="convert the column: ALTER TABLE ... MODIFY ... CHARACTER SET utf8mb4",
            )
        parts = ", ".join(f"CONVERT(CONVERT(x'{byte:02x}' USING {charset}) USING utf8mb4)" for byte in range(256))
        (row,) = self._query(f"SELECT {parts}")
        return "".join(
            character if len(character) == 1 and (character != "?" or byte == ord("?")) else _UNDEFINED
            for byte, character in enumerate(map(str, row))
        )


def _by_table(table: str) -> Recode:
    def recode(value: bytes) -> bytes:
        try:
            return codecs.charmap_decode(value, "strict", table)[0].encode()
        except UnicodeDecodeError:
            return value

    return recode


def _by_codec(name: str) -> Recode:
    def recode(value: bytes) -> bytes:
        try:
            return value.decode(name).encode()
        except UnicodeError:
            return value

    return recode
