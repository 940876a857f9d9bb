"""The Iceberg connector passes the suite of all connectors, on tables of a catalog in SQLite and files on disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog

from headrace.testing.sink_conformance import SinkConformance
from headrace_iceberg import IcebergConnector


class TestIceberg(SinkConformance):
    connector = IcebergConnector
    kills = 1

    def options(self, folder: Path) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        return {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder / "lake"), "table": "shop.orders"}

    def read(self, folder: Path) -> pa.Table:
        with closing(SqlCatalog("headrace", uri=f"sqlite:///{folder}/catalog.db", warehouse=str(folder))) as catalog:
            # The files of the current snapshot, as they are: pyiceberg's reader gives an empty list for a null one.
            planned = catalog.load_table("shop.orders").scan().plan_files()
            files = [each.file.file_path.removeprefix("file://") for each in planned]
        return pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
