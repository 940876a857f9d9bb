"""The same question in plain SQL over the source files, and the comparison of every row.

Owns the second opinion. Shares no code with the pipeline: it is DuckDB over the CSV data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from headrace.demo.source_files import REGISTER_BEGIN, changes, read_airlines, read_planes

TARGET_TABLE = "carrier_delays_hourly"

QUESTION = """
WITH hourly AS (
SELECT f.carrier, a.name AS airline, p.manufacturer,
       date_trunc('hour', f.scheduled_at) AS window_start,
       date_trunc('hour', f.scheduled_at) + INTERVAL 1 HOUR AS window_end,
       count(*) AS flights, avg(f.dep_delay) AS mean_delay, list_sort(list(f.dep_delay)) AS delays,
       (count(*) - 1) * 0.95::DOUBLE AS place
FROM flights f
ASOF LEFT JOIN planes p ON f.tailnum = p.tailnum AND f.scheduled_at >= p.valid_from
LEFT JOIN airlines a ON f.carrier = a.carrier
WHERE f.dep_delay IS NOT NULL
GROUP BY ALL)
SELECT * EXCLUDE (delays, place),
       -- quantile_cont, written out: its own last bit depends on the processor.
       delays[floor(place)::INTEGER + 1]
         + (delays[ceil(place)::INTEGER + 1] - delays[floor(place)::INTEGER + 1]) * (place - floor(place)) AS p95_delay
FROM hourly
"""

COLUMNS = ("carrier", "airline", "manufacturer", "window_start", "window_end", "flights", "mean_delay", "p95_delay")

SUMMARY = f"""
SELECT any_value(airline) AS airline, sum(flights)::BIGINT AS flights,
       sum(mean_delay * flights) / sum(flights) AS mean_delay, max(p95_delay) AS worst_p95
FROM {TARGET_TABLE} GROUP BY carrier ORDER BY flights DESC LIMIT 8
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the target's rows differ from the batch answer."""

    rows: int
    expected: int
    missing: int
    unexpected: int
    examples: tuple[str, ...]

    @property
    def rows_equal(self) -> bool:
        return not self.missing and not self.unexpected and self.rows == self.expected


def answer(flights: pl.DataFrame) -> pl.DataFrame:
    """The batch answer."""
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    database.register("flights", flights.to_arrow())
    database.register("planes", _register().to_arrow())
    database.register("airlines", read_airlines().to_arrow())
    result = _frame(database.sql(QUESTION))
    database.close()
    return comparable(result)


def _register() -> pl.DataFrame:
    """Every version of every aircraft, with the time from which it holds."""
    planes = read_planes().select("tailnum", "manufacturer")
    versions = [planes.with_columns(pl.lit(REGISTER_BEGIN).alias("valid_from"))]
    for change in changes(read_planes()):
        rows = pl.DataFrame({"tailnum": list(change.makers), "manufacturer": list(change.makers.values())})
        versions.append(rows.with_columns(pl.lit(change.valid_from).alias("valid_from")))
    return pl.concat(versions)


def read_target(database: Path) -> pl.DataFrame:
    """What the connector wrote."""
    connection = duckdb.connect(str(database), read_only=True)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        return comparable(_frame(connection.sql(f"SELECT * FROM {TARGET_TABLE}")))
    finally:
        connection.close()


def count_target(database: Path) -> int:
    """How many rows the connector wrote."""
    connection = duckdb.connect(str(database), read_only=True)
    try:
        [(count,)] = connection.sql(f"SELECT count(*) FROM {TARGET_TABLE}").fetchall()
        return int(count)
    finally:
        connection.close()


def summary(database: Path) -> pl.DataFrame:
    """The busiest carriers and their delays, from the target."""
    connection = duckdb.connect(str(database), read_only=True)
    try:
        return _frame(connection.sql(SUMMARY))
    finally:
        connection.close()


def _frame(result: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    return pl.DataFrame(result.to_arrow_table())


def comparable(frame: pl.DataFrame) -> pl.DataFrame:
    """The answer's columns in one shape and order."""
    moments = [pl.col(name).cast(pl.Datetime("ms", "UTC")) for name in ("window_start", "window_end")]
    return frame.select(COLUMNS).with_columns(*moments).cast({"flights": pl.Int64}).sort(COLUMNS, nulls_last=True)


def compare(found: pl.DataFrame, expected: pl.DataFrame) -> Comparison:
    """Compare as multisets of whole rows: equal means bit for bit, and no row twice."""
    counted = [
        frame.group_by(COLUMNS).len(name).sort(COLUMNS, nulls_last=True)
        for frame, name in ((found, "found"), (expected, "expected"))
    ]
    joined = counted[0].join(counted[1], on=COLUMNS, how="full", nulls_equal=True, coalesce=True)
    counts = joined.with_columns(pl.col("found", "expected").fill_null(0).cast(pl.Int64))
    missing = counts.filter(pl.col("expected") > pl.col("found"))
    unexpected = counts.filter(pl.col("found") > pl.col("expected"))
    examples = [f"missing {row}" for row in missing.select(COLUMNS).head(3).rows()]
    examples += [f"unexpected {row}" for row in unexpected.select(COLUMNS).head(3).rows()]
    return Comparison(found.height, expected.height, missing.height, unexpected.height, tuple(examples))
