"""The Iceberg connector passes the suite of all connectors, on tables of a catalog in SQLite and files on disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.schema import Schema

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
            table = catalog.load_table("shop.orders")
            files = [each.file.file_path.removeprefix("file://") for each in table.scan().plan_files()]
            # The files of the current snapshot, as they are: pyiceberg's reader gives an empty list for a null one.
            parts = [_with_names(pq.read_table(file), table.schema()) for file in files]
            return pa.concat_tables([*parts, table.schema().as_arrow().empty_table()], promote_options="permissive")


def _with_names(rows: pa.Table, schema: Schema) -> pa.Table:
    """Columns are known by their field ids: a file keeps the names that it was written with."""
    ids = [int(each.metadata[b"PARQUET:field_id"]) for each in rows.schema]
    return rows.rename_columns([schema.find_field(each).name for each in ids])
