"""What is told of a catalog and its table before anything is written, and what is shown that would be."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.errors import DriftRefused
from headrace.egress.sdk import EgressBatch, TargetInvalid, TargetUnavailable
from headrace.testing.sink_harness import TOPIC, order, order_contract
from headrace_iceberg import IcebergConnector


def config(folder: Path, *, drift: dict[str, str] | None = None, **more: Any) -> EgressConfig:
    options = {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder / "lake"), "table": "shop.orders"}
    values = {
        "name": "out",
        "topic": TOPIC,
        "connector": "iceberg",
        "mode": "append",
        "options": {**options, **more},
        "drift": drift or {},
    }
    return EgressConfig.model_validate(values)


def checked(given: EgressConfig, contract: Contract | None = None) -> list[str]:
    made = IcebergConnector()
    return list(made.check(connector_config(given, made), contract or order_contract()))


def make_table(folder: Path, schema: Schema, *specs: PartitionSpec) -> None:
    with closing(SqlCatalog("headrace", uri=f"sqlite:///{folder}/catalog.db", warehouse=str(folder / "lake"))) as made:
        made.create_namespace("shop")
        made.create_table("shop.orders", schema, **({"partition_spec": specs[0]} if specs else {}))


def files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def columns(*, required: bool = False, **types: Any) -> Schema:
    made = enumerate(types.items(), 1)
    return Schema(*(NestedField(number, name, each, required=required) for number, (name, each) in made))


PARTITIONED = PartitionSpec(PartitionField(1, 1_000, IdentityTransform(), "id"))


@pytest.mark.parametrize(
    ("table", "drift", "told"),
    [
        (columns(id=StringType(), customer=StringType()), {}, "column 'id' is string, the contract asks for long"),
        (columns(id=LongType()), {"add": "refuse"}, "column 'customer' is missing"),
        (columns(id=LongType(), gone=LongType()), {"drop": "refuse"}, "column 'gone' is not in the contract"),
        (columns(customer=StringType(), required=True), {}, "column 'customer' is required"),
        ((columns(id=LongType()), PARTITIONED), {}, "it is partitioned"),
    ],
)
def test_a_table_that_does_not_fit_is_told(tmp_path: Path, table: Any, drift: dict[str, str], told: str) -> None:
    """With the column; the table stays as it is."""
    make_table(tmp_path, *(table if isinstance(table, tuple) else (table,)))
    before = files(tmp_path)
    with pytest.raises((DriftRefused, TargetInvalid), match=told):
        checked(config(tmp_path, drift=drift))
    assert files(tmp_path) == before


def test_a_table_that_can_be_altered_is_not(tmp_path: Path) -> None:
    """Columns to add and to drop: nothing stands in the way, and nothing is done."""
    make_table(tmp_path, columns(id=LongType(), gone=LongType()))
    before = files(tmp_path)
    assert checked(config(tmp_path, drift={"drop": "apply"})) == []
    assert files(tmp_path) == before


def test_a_catalog_that_is_yet_to_be_made_is_not_made(tmp_path: Path) -> None:
    """No file, no table of the database's own."""
    assert checked(config(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as database:
        database.execute("CREATE TABLE mine (id integer)")
    before = files(tmp_path)
    assert checked(config(tmp_path)) == []
    assert checked(config(tmp_path, properties={"schema_version": "v1"})) == []
    assert files(tmp_path) == before


def test_an_old_catalog_is_not_migrated(tmp_path: Path) -> None:
    """Where the egress itself would be told to."""
    make_table(tmp_path, columns(id=LongType()))
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as database:
        database.execute("ALTER TABLE iceberg_tables DROP COLUMN iceberg_type")
        database.commit()
    before = files(tmp_path)
    assert checked(config(tmp_path, properties={"schema_version": "v1"})) == []
    assert files(tmp_path) == before


def test_a_place_that_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the catalog's file and of the tables' folder, there or not; no warehouse; a type that Iceberg has not."""
    given = config(tmp_path)
    (problem,) = checked(config(tmp_path, uri=f"sqlite:///{tmp_path}/no/catalog.db"))
    assert problem == f"{tmp_path}/no: no such folder; make the folder of the catalog's file, or correct `uri`"
    (tmp_path / "file").write_text("not a folder")
    (problem,) = checked(config(tmp_path, warehouse=str(tmp_path / "file")))
    assert problem == f"{tmp_path}/file: not a folder; name another place, or move it away"
    with pytest.raises(TargetUnavailable, match="not a database"):
        checked(config(tmp_path, uri=f"sqlite:///{tmp_path}/file"))
    with pytest.raises(TargetInvalid, match="no place for tables"):
        checked(config(tmp_path, warehouse=None))
    empty: dict[str, Any] = {"type": "record", "name": "Nothing", "fields": []}
    schema = AvroSchema.parse({"type": "record", "name": "Row", "fields": [{"name": "nothing", "type": empty}]})
    with pytest.raises(TargetInvalid, match="'nothing': Iceberg has no type"):
        checked(given, Contract(TOPIC, schema, key=()))
    make_table(tmp_path, columns(id=LongType()))
    # The tests' user may be root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: "catalog.db" not in str(path))
    assert checked(given) == [f"{tmp_path}/catalog.db: not writable; give the egress a catalog that it may write"]
    monkeypatch.setattr(os, "access", lambda path, mode: "lake" not in str(path))
    (problem,) = checked(given)
    assert problem.endswith("shop/orders: not writable; give the egress a folder that it may write")


def test_an_explanation_names_table_columns_and_positions(tmp_path: Path) -> None:
    """Without a catalog, and without the variables of its secrets."""
    rows = pa.Table.from_pylist([order(each) for each in range(4)], schema=to_arrow(order_contract().schema))
    partition, offset = np.array([0, 0, 1, 1], np.int32), np.array([5, 6, 0, 9])
    batch = EgressBatch(rows, ("id",), np.zeros(4, np.int8), partition, offset, offset, offset)
    made, given = IcebergConnector(), config(tmp_path, uri="https://127.0.0.1:9", properties={"token": "${NO_TOKEN}"})
    assert made.explain(connector_config(given, made), order_contract(), batch) == [
        "append a data file of 4 rows to shop.orders: id long, customer string, amount double",
        'commit it with headrace.positions.out.orders = {"0": 7, "1": 10}',
    ]
    assert list(tmp_path.iterdir()) == []
