"""The PostgreSQL connector passes the suite of all connectors, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.testing.sink_conformance import SinkConformance
from headrace.testing.sink_postgres import read_table, schema_of
from headrace_postgres import PostgresConnector


class TestPostgres(SinkConformance):
    connector = PostgresConnector
    kills = 1

    @pytest.fixture(autouse=True)
    def _server(self, postgres_url: str) -> None:
        self.url = postgres_url

    def options(self, folder: Path) -> dict[str, Any]:
        return {"database": self.url, "schema": schema_of(folder), "table": "target", "version_column": "seen"}

    def read(self, folder: Path) -> pa.Table:
        return without(read_table(self.url, schema_of(folder)), "seen")


def without(table: pa.Table, column: str) -> pa.Table:
    return table.drop_columns([column]) if column in table.column_names else table
