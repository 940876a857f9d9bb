"""The DuckDB connector passes the suite of all connectors, on a real DuckDB file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from headrace.egress.sdk import Mode
from headrace.testing.sink_conformance import SinkConformance
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

    def modes(self) -> list[Mode]:
        return [Mode.UPSERT]

    def options(self, folder: Path) -> dict[str, Any]:
        return {"path": folder / "target.duckdb", "table": "target", "keep_open": True}

    def read(self, folder: Path) -> pa.Table:
        with duckdb.connect(str(folder / "target.duckdb"), read_only=True) as connection:
            return connection.sql("SELECT * FROM target").to_arrow_table()
