"""The right answers, and whether a pipeline's are the same.

- The answer is DuckDB's, over all events at once; rows are compared one by one, in any order.
- Of a table topic the last row of each key counts, of an event topic every row.
- Doubles are equal within `RELATIVE_ERROR`: an average is a sum divided once, here and there.
"""

from __future__ import annotations

import duckdb
import polars as pl
from polars.testing import assert_frame_equal

from bench.nexmark.catalog import Query
from bench.nexmark.events import Events
from headrace.contracts.contract import Contract, TopicKind
from headrace.engine.operator import DELETED

RELATIVE_ERROR = 1e-12


def expected_rows(query: Query, events: Events) -> pl.DataFrame:
    """What DuckDB says. `arrival` numbers the rows of each kind in their order."""
    with duckdb.connect() as connection:
        connection.execute("set threads to 2")
        for name, frame in (("persons", events.persons), ("auctions", events.auctions), ("bids", events.bids)):
            plain = frame.with_columns(pl.col(pl.Datetime).dt.replace_time_zone(None)).with_row_index("arrival")
            connection.register(f"{name}_rows", plain.to_arrow())
            columns = "*" if name == "bids" and "arrival" in query.sql else "* exclude (arrival)"
            connection.execute(f"create view {name} as select {columns} from {name}_rows")
        return pl.DataFrame(connection.sql(query.sql).to_arrow_table())


def standing_rows(contract: Contract, rows: pl.DataFrame) -> pl.DataFrame:
    """What a topic says in the end. `rows` in the order of their offsets, by partition."""
    if contract.kind is TopicKind.TABLE:
        latest = rows.unique(contract.key, keep="last", maintain_order=True)
        rows = latest.filter(~pl.col(DELETED)) if DELETED in latest.columns else latest
    return rows.select([field.name for field in contract.schema.fields])


def check_rows(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Raise `AssertionError`, with the first difference, unless both hold the same rows."""
    assert sorted(found.columns) == sorted(expected.columns), (found.columns, expected.columns)
    plain = found.with_columns(pl.col(pl.Datetime).dt.replace_time_zone(None)).select(expected.columns)
    schema = pl.Schema({name: _comparable(dtype) for name, dtype in plain.schema.items()})
    exact = sorted(expected.columns, key=lambda name: schema[name].is_float())
    assert_frame_equal(
        plain.cast(schema).sort(exact),
        expected.cast(schema).sort(exact),
        check_exact=False,
        rel_tol=RELATIVE_ERROR,
        abs_tol=0.0,
    )


def _comparable(dtype: pl.DataType) -> pl.DataType:
    """The same type for both sides."""
    if dtype.is_integer():
        return pl.Int64()
    return pl.Datetime("us") if isinstance(dtype, pl.Datetime) else dtype
