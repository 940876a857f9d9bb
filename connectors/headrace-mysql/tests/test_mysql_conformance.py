"""The MySQL connector passes the suite of all connectors, on a real server: MariaDB, or the MySQL that is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.testing.sink_conformance import SinkConformance
from headrace.testing.sink_mysql import make_database, read_table
from headrace_mysql import MysqlConnector


class TestMysql(SinkConformance):
    connector = MysqlConnector
    kills = 1
    holds_not_a_number = False

    @pytest.fixture(autouse=True)
    def _server(self, mariadb_url: str) -> None:
        self.url = mariadb_url

    def options(self, folder: Path) -> dict[str, Any]:
        return {"database": make_database(self.url, folder), "table": "target", "version_column": "seen"}

    def read(self, folder: Path) -> pa.Table:
        return without(read_table(make_database(self.url, folder)), "seen")


def without(table: pa.Table, column: str) -> pa.Table:
    return table.drop_columns([column]) if column in table.column_names else table
