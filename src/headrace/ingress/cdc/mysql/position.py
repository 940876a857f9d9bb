"""How far a MySQL or MariaDB database has been read.

Owns `MysqlPosition`: the place in the binary log, by file and by transaction id, and each table's snapshot.

- `place` is where the last published transaction ends; what commits after it has not been published, but for the rows
  up to `Open` of the one transaction that was cut in two because it is large.
- A table's snapshot goes in chunks, in key order; each chunk is the table as it was at the place of its position.
  Changes of rows behind `after` are left out until then: the row's state comes with a later chunk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

Key = tuple[str, ...]
"""Cells of a primary key; bytes that are no UTF-8 as surrogates."""
_FILE = re.compile(r".*\.(\d+)")
_OFFSET_BITS = 40


class Place(NamedTuple):
    """A place in the binary log; of places in one server's log the greater is the later."""

    number: int
    """Of the file."""
    offset: int
    file: str

    @classmethod
    def of(cls, file: str, offset: int) -> Place:
        found = _FILE.fullmatch(file)
        return cls(int(found.group(1)) if found else 0, offset, file)

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"


class Gtids:
    """The transactions that were read, by id: of MariaDB the last of each domain, of MySQL intervals of each server."""

    def __init__(self, text: str = "") -> None:
        self._mariadb: dict[str, str] = {}
        self._mysql: dict[str, list[list[int]]] = {}
        for part in text.replace("\n", "").replace(" ", "").split(","):
            if ":" in part:
                server, *intervals = part.split(":")
                self._mysql[server.lower()] = [_interval(each) for each in intervals]
            elif part:
                self._mariadb[part.partition("-")[0]] = part

    def add(self, gtid: str) -> None:
        """One more transaction."""
        server, _, number = gtid.partition(":")
        if not number:
            self._mariadb[gtid.partition("-")[0]] = gtid
            return
        intervals, wanted = self._mysql.setdefault(server.lower(), []), int(number)
        for each in reversed(intervals):
            if each[0] <= wanted <= each[1]:
                return
            if each[1] + 1 == wanted:
                each[1] = wanted
                return
        intervals.append([wanted, wanted])
        intervals.sort()

    def __str__(self) -> str:
        sets = [":".join([server, *map(_interval_text, each)]) for server, each in sorted(self._mysql.items())]
        return ",".join([*(self._mariadb[domain] for domain in sorted(self._mariadb, key=int)), *sets])


def _interval(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return [int(first), int(last or first)]


def _interval_text(interval: list[int]) -> str:
    first, last = interval
    return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """How far the snapshot of a table is."""

    after: Key | None = None
    """Key of the last row published; None before the first."""
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """The transaction that was published in part: up to this row."""

    offset: int
    """Where the row's event begins."""
    row: int


@dataclass(frozen=True, slots=True)
class MysqlPosition:
    """Everything that committed up to `place` has been published."""

    server: str
    """The server's identity."""
    generation: int
    place: Place
    gtids: str = ""
    """Transactions up to `place`; empty where the server does not number them."""
    tables: Mapping[str, TableSnapshot] = field(default_factory=dict)
    open: Open | None = None

    @property
    def sequence(self) -> int:
        return self.place.number << _OFFSET_BITS | self.place.offset

    @property
    def open_snapshots(self) -> tuple[str, ...]:
        return tuple(name for name, each in self.tables.items() if not each.is_done)

    def with_table(self, name: str, snapshot: TableSnapshot) -> MysqlPosition:
        return replace(self, tables={**self.tables, name: snapshot})

    def to_json(self) -> str:
        plain = asdict(self)
        plain["place"] = [self.place.file, self.place.offset]
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> MysqlPosition:
        plain = json.loads(text)
        tables = {
            name: TableSnapshot(None if each["after"] is None else tuple(each["after"]), each["is_done"])
            for name, each in plain["tables"].items()
        }
        opened = None if plain["open"] is None else Open(**plain["open"])
        place = Place.of(*plain["place"])
        return cls(plain["server"], plain["generation"], place, plain["gtids"], tables, opened)
