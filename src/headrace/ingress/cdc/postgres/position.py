"""How far a PostgreSQL database has been read.

Owns `PostgresPosition`: the position in the server's log, and what is known of each table's snapshot.

- `lsn` is where the last published transaction ends; what commits after it has not been published, but for the first
  `Open.events` changes of the one transaction that was cut in two because it is large.
- A table's rows are split into ranges of its key, each of which is read in order. A range knows the moment of the
  database at which it was read: a change that this moment shows is in the rows already and is left out of the stream.
- Ranges are forgotten once the stream is past all their moments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Key = tuple[str, ...]
"""Values of a primary key as PostgreSQL's texts."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a transaction that reads the snapshot can see (`pg_current_snapshot`), and where the log was then."""

    text: str
    """`xmin:xmax:xip,xip,...`"""
    lsn: int

    def shows(self, xid: int) -> bool:
        """Whether it sees what transaction `xid` (its lower 32 bits, as the stream has them) committed."""
        lowest, highest, running = self.text.split(":")
        xmin, xmax = int(lowest), int(highest)
        full = xmax >> 32 << 32 | xid
        if full > xmax + 2**31:
            full -= 2**32
        elif full < xmax - 2**31:
            full += 2**32
        return full < xmin or (full < xmax and str(full) not in running.split(","))


@dataclass(frozen=True, slots=True)
class Range:
    """Rows whose key is above that of the range before it, up to `upto` (None: to the end)."""

    upto: Key | None = None
    after: Key | None = None
    """Key of the last row published; None before the first."""
    is_done: bool = False
    moment: Moment | None = None
    """None: that of the slot's beginning, before everything that streams."""


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """How far the snapshot of a table is."""

    oid: int
    """Another one means that the table was made anew."""
    ranges: tuple[Range, ...] = ()
    """Empty when all is done and streamed past."""

    @property
    def is_done(self) -> bool:
        return all(each.is_done for each in self.ranges)

    @property
    def seen_until(self) -> int:
        """From here on no change can be in the snapshot already."""
        return max((each.moment.lsn for each in self.ranges if each.moment is not None), default=0)

    def with_range(self, index: int, changed: Range) -> TableSnapshot:
        return replace(self, ranges=(*self.ranges[:index], changed, *self.ranges[index + 1 :]))

    def reopened(self, moment: Moment) -> TableSnapshot:
        """To go on at another moment: what is left of each range is read at that one."""
        ranges: list[Range] = []
        for each in self.ranges:
            if each.is_done:
                ranges.append(each)
                continue
            if each.after is not None:
                ranges.append(Range(each.after, each.after, is_done=True, moment=each.moment))
            ranges.append(Range(each.upto, None, moment=moment))
        return replace(self, ranges=tuple(ranges))

    def lower(self, index: int) -> Key | None:
        """The key that the rest of a range is above."""
        after = self.ranges[index].after
        return after if after is not None else self.ranges[index - 1].upto if index else None


@dataclass(frozen=True, slots=True)
class Open:
    """The transaction that was published in part."""

    final_lsn: int
    events: int
    """Changes of it, of whatever table, that were read."""


@dataclass(frozen=True, slots=True)
class Resnapshot:
    """How far the rows of a table were read again while they stream."""

    order: str = ""
    """Which order this follows; empty for a table that joined."""
    after: Key | None = None
    """Key of the last row; None before the first."""
    rows: int = 0
    """Read so far."""
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class PostgresPosition:
    """Everything that committed up to `lsn` has been published."""

    system: str
    """The server's identity and the database's name."""
    generation: int
    lsn: int
    tables: Mapping[str, TableSnapshot] = field(default_factory=dict)
    open: Open | None = None
    resnapshots: Mapping[str, Resnapshot] = field(default_factory=dict)
    """The last of each table that had one."""

    @property
    def sequence(self) -> int:
        return self.lsn

    @property
    def first_open(self) -> bool:
        """Whether a snapshot that comes before the stream is under way."""
        return any(not each.is_done for each in self.tables.values())

    @property
    def open_snapshots(self) -> tuple[str, ...]:
        again = {name for name, each in self.resnapshots.items() if not each.is_done}
        return tuple(name for name, each in self.tables.items() if not each.is_done or name in again)

    def with_table(self, name: str, snapshot: TableSnapshot) -> PostgresPosition:
        return replace(self, tables={**self.tables, name: snapshot})

    def with_resnapshot(self, name: str, progress: Resnapshot) -> PostgresPosition:
        return replace(self, resnapshots={**self.resnapshots, name: progress})

    def at(self, lsn: int, opened: Open | None = None) -> PostgresPosition:
        """Further on; ranges that nothing can concern any more are forgotten."""
        tables = {
            name: replace(each, ranges=()) if each.ranges and each.is_done and each.seen_until <= lsn else each
            for name, each in self.tables.items()
        }
        return replace(self, lsn=lsn, open=opened, tables=tables)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> PostgresPosition:
        plain = json.loads(text)
        tables = {
            name: TableSnapshot(each["oid"], tuple(_range(part) for part in each["ranges"]))
            for name, each in plain["tables"].items()
        }
        opened = None if plain["open"] is None else Open(**plain["open"])
        # Positions of before they were known have none.
        again = {name: _resnapshot(each) for name, each in plain.get("resnapshots", {}).items()}
        return cls(plain["system"], plain["generation"], plain["lsn"], tables, opened, again)


def _key(value: object) -> Key | None:
    return tuple(value) if isinstance(value, list) else None


def _resnapshot(plain: Mapping[str, Any]) -> Resnapshot:
    return Resnapshot(plain["order"], _key(plain["after"]), plain["rows"], plain["is_done"])


def _range(plain: Mapping[str, object]) -> Range:
    moment = Moment(**plain["moment"]) if isinstance(plain["moment"], dict) else None
    return Range(_key(plain["upto"]), _key(plain["after"]), bool(plain["is_done"]), moment)
