"""The Parquet connector passes the suite of all connectors, on a real folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.testing.sink_conformance import SinkConformance
from headrace_parquet import ParquetConnector


class TestParquet(SinkConformance):
    connector = ParquetConnector

    def options(self, folder: Path) -> dict[str, Any]:
        return {"path": folder / "target"}

    def read(self, folder: Path) -> pa.Table:
        files = sorted((folder / "target" / "orders").glob("*/*.parquet"))
        return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files], promote_options="default")
