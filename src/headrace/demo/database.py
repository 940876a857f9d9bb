"""The fleet team's database: SQLite, changed while the flights run.

Owns `fleet.db`. Knows nothing of headrace: it is somebody's ordinary database.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from headrace.demo.source_files import REGISTER_BEGIN, Change, read_airlines, read_planes

TABLES = """
CREATE TABLE planes (
  tailnum TEXT PRIMARY KEY, year INTEGER, manufacturer TEXT, model TEXT, engines INTEGER, seats INTEGER,
  valid_from INTEGER NOT NULL
);
CREATE TABLE airlines (carrier TEXT PRIMARY KEY, name TEXT, valid_from INTEGER NOT NULL);
"""


def epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class SqliteFleet:
    """The register of aircraft."""

    path: Path

    def create(self) -> None:
        """The register as it is when the year begins."""
        begin = epoch_ms(REGISTER_BEGIN)
        database = sqlite3.connect(self.path)
        with database:
            database.executescript(TABLES)
            planes = ((*row, begin) for row in read_planes().iter_rows())
            database.executemany("INSERT INTO planes VALUES (?, ?, ?, ?, ?, ?, ?)", planes)
            airlines = ((*row, begin) for row in read_airlines().iter_rows())
            database.executemany("INSERT INTO airlines VALUES (?, ?, ?)", airlines)
        database.close()

    def enter(self, change: Change) -> None:
        """One transaction of the fleet team."""
        database = sqlite3.connect(self.path, timeout=30)
        with database:
            database.executemany(
                "UPDATE planes SET manufacturer = ?, valid_from = ? WHERE tailnum = ?",
                [(maker, epoch_ms(change.valid_from), tail) for tail, maker in change.makers.items()],
            )
        database.close()
