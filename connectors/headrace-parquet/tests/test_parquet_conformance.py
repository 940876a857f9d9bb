"""The Parquet connector passes the suite of all connectors, on a real folder and on a stand-in for S3."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.testing.s3_service import REGION, S3Store
from headrace.testing.sink_conformance import SinkConformance
from headrace_parquet import ParquetConnector


class TestParquet(SinkConformance):
    connector = ParquetConnector

    def options(self, folder: Path) -> dict[str, Any]:
        return {"path": folder / "target"}

    def read(self, folder: Path) -> pa.Table:
        files = sorted((folder / "target" / "orders").glob("*/*.parquet"))
        return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files], promote_options="default")


class TestParquetOnS3(SinkConformance):
    """The store is a stand-in: moto, in a process of its own."""

    connector = ParquetConnector

    @pytest.fixture(autouse=True)
    def bucket(self, s3_store: S3Store) -> None:
        self._store, self._bucket = s3_store, s3_store.new_bucket()

    def options(self, folder: Path) -> dict[str, Any]:
        return {
            "path": f"s3://{self._bucket}/{folder.name}",
            "endpoint": self._store.endpoint,
            "region": REGION,
            "access_key_id": "${LAKE_KEY_ID}",
            "secret_access_key": "${LAKE_KEY}",
        }

    def read(self, folder: Path) -> pa.Table:
        client = self._store.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{folder.name}/orders/")
        names = [each["Key"] for page in pages for each in page.get("Contents", ()) if each["Key"].endswith(".parquet")]
        files = [client.get_object(Bucket=self._bucket, Key=name)["Body"].read() for name in names]
        return pa.concat_tables([pq.read_table(io.BytesIO(file)) for file in files], promote_options="default")

    def trace(self, folder: Path) -> Any:
        listed = self._store.client().list_objects_v2(Bucket=self._bucket).get("Contents", ())
        return {each["Key"]: (each["ETag"], each["LastModified"]) for each in listed}
