"""The DuckDB connector passes the suite of all connectors, on a real DuckDB file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from headrace.egress.sdk import Mode
from headrace.testing.sink_conformance import SinkConformance
from headrace.testing.sink_disturbances import DisturbanceTests
from headrace.testing.sink_harness import order
from headrace_duckdb import DuckDbConnector


class TestDuckDb(SinkConformance):
    connector = DuckDbConnector
    kills = 1

    def options(self, folder: Path) -> dict[str, Any]:
        return {"path": folder / "target.duckdb", "table": "target"}

    def read(self, folder: Path) -> pa.Table:
        with duckdb.connect(str(folder / "target.duckdb"), read_only=True) as connection:
            return connection.sql("SELECT * FROM target").to_arrow_table()


class TestDuckDbKeptOpen(SinkConformance):
    """The same with the file held open between flushes, which no mode knows of: the crashes in one mode."""

    connector = DuckDbConnector
    shares_target = False

    def modes(self) -> list[Mode]:
        return [Mode.UPSERT]

    def options(self, folder: Path) -> dict[str, Any]:
        return {"path": folder / "target.duckdb", "table": "target", "keep_open": True}

    def read(self, folder: Path) -> pa.Table:
        with duckdb.connect(str(folder / "target.duckdb"), read_only=True) as connection:
            return connection.sql("SELECT * FROM target").to_arrow_table()


class TestDuckDbConstrained(DisturbanceTests):
    """A table that refuses rows: DuckDB fails a whole batch for one of them."""

    connector = DuckDbConnector

    def modes(self) -> list[Mode]:
        return [Mode.UPSERT]

    def options(self, folder: Path) -> dict[str, Any]:
        path = folder / "target.duckdb"
        if not path.exists():
            with duckdb.connect(str(path)) as connection:
                connection.execute("CREATE TABLE target (id BIGINT, customer TEXT, amount DOUBLE CHECK (amount >= 0))")
        return {"path": path, "table": "target"}

    def read(self, folder: Path) -> pa.Table:
        with duckdb.connect(str(folder / "target.duckdb"), read_only=True) as connection:
            return connection.sql("SELECT * FROM target").to_arrow_table()

    def poison(self) -> dict[str, Any] | None:
        return order(-1, amount=-1.0)
