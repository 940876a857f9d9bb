"""Copy-on-write: what becomes of files and rows that are there when keys of them come again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.sdk import (
    ConnectorConfig,
    EgressBatch,
    Mode,
    Operation,
    PositionMoved,
    TargetInvalid,
    TargetUnavailable,
    arrow_schema,
)
from headrace.testing.sink_harness import TOPIC, order, order_contract
from headrace_iceberg import IcebergConnector, IcebergOptions, fitting, held_files

NAME = "shop.orders"
LONG, TEXT = {"name": "id", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}


class Lake:
    """A catalog of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._place = {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder / "lake")}
        self.data = folder / "lake"

    def config(self, name: str = "out", mode: Mode = Mode.REPLICATE) -> ConnectorConfig:
        return ConnectorConfig(name, TOPIC, mode, IcebergOptions.model_validate({**self._place, "table": NAME}))

    def catalog(self) -> SqlCatalog:
        return SqlCatalog("headrace", **self._place)

    @contextmanager
    def table(self) -> Iterator[Table]:
        with closing(self.catalog()) as catalog:
            yield catalog.load_table(NAME)

    def rows(self) -> list[dict[str, Any]]:
        """As pyiceberg reads them."""
        with self.table() as table:
            found: list[dict[str, Any]] = table.scan().to_arrow().to_pylist()
        return found

    def left_over(self) -> set[str]:
        """Data files that no snapshot has."""
        with self.table() as table:
            known = set(table.inspect.all_data_files()["file_path"].to_pylist())
        return {each.name for each in self.data.rglob("data/*.parquet")} - {Path(each).name for each in known}

    def files(self) -> list[Path]:
        """Of the current snapshot."""
        with self.table() as table:
            return [Path(each.file.file_path.removeprefix("file://")) for each in table.scan().plan_files()]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def contract_of(*fields: Mapping[str, Any], key: Sequence[str] = ("id",)) -> Contract:
    schema = AvroSchema.parse({"type": "record", "name": "Row", "fields": [dict(each) for each in fields]})
    return Contract(TOPIC, schema, key=tuple(key))


def batch_of(
    contract: Contract, rows: Sequence[Mapping[str, Any]], first: int, deleted: Sequence[Mapping[str, Any]] = ()
) -> EgressBatch:
    """Rows, then deletions, of partition 0 from this offset on."""
    given = [dict(each) for each in (*rows, *deleted)]
    offsets = np.arange(first, first + len(given), dtype=np.int64)
    return EgressBatch(
        rows=pa.Table.from_pylist(given, schema=arrow_schema(contract)),
        key=contract.key,
        operation=np.repeat([Operation.UPSERT, Operation.DELETE], [len(rows), len(deleted)]).astype(np.int8),
        partition=np.zeros(len(given), np.int32),
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets,
    )


class Writer:
    """An egress of one partition, batch after batch."""

    def __init__(self, lake: Lake, contract: Contract | None = None, name: str = "out") -> None:
        self.contract, self.connector = contract or order_contract(), IcebergConnector()
        self._next = dict(self.connector.open(lake.config(name), self.contract, [0])).get(0, 0)

    def put(self, rows: Sequence[Mapping[str, Any]], deleted: Sequence[Mapping[str, Any]] = ()) -> None:
        batch = batch_of(self.contract, rows, self._next, deleted)
        self._next += len(batch)
        self.connector.write(batch, {0: self._next})
        self.connector.flush()


def _logical(avro_type: str, logical: str, **more: Any) -> dict[str, Any]:
    return {"type": avro_type, "logicalType": logical, **more}


AT = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("avro_type", "one", "other"),
    [
        ("boolean", False, True),
        ("int", -1, 2**31 - 1),
        ("long", -(2**63), 2**63 - 1),
        ("float", 0.5, math.inf),
        ("double", 0.1, math.nan),
        ("bytes", b"", b"\x00\xff"),
        ("string", "", "grün"),
        ({"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]}, "SPADES", "HEARTS"),
        ({"type": "fixed", "name": "Four", "size": 4}, b"\x00\x01\x02\xff", b"abcd"),
        (_logical("bytes", "decimal", precision=38, scale=9), Decimal("1.5"), Decimal("-1E+10")),
        (_logical("bytes", "decimal", precision=60, scale=5), Decimal("1.5"), Decimal("1E+50")),
        (_logical("fixed", "decimal", name="Money", size=8, precision=12, scale=2), Decimal("1.5"), Decimal(-7)),
        (_logical("string", "uuid"), "12345678-1234-5678-1234-567812345678", "00000000-0000-0000-0000-000000000000"),
        (_logical("int", "date"), date(1969, 12, 31), date(2013, 1, 1)),
        (_logical("int", "time-millis"), time(0, 0, 0, 1000), time(23, 59)),
        (_logical("long", "time-micros"), time(0, 0, 0, 1), time(23, 59)),
        (_logical("long", "timestamp-millis"), AT, AT.replace(year=1950)),
        (_logical("long", "timestamp-micros"), AT, AT.replace(microsecond=1)),
        (_logical("long", "timestamp-nanos"), 1, 2),
        (_logical("long", "local-timestamp-micros"), AT.replace(tzinfo=None), datetime(1950, 1, 1)),  # noqa: DTZ001
    ],
)
def test_a_key_of_each_type_finds_its_row(lake: Lake, avro_type: Any, one: Any, other: Any) -> None:
    """Beside another key column, and null: rows that come again replace theirs alone, deletions remove theirs alone."""
    first = {"name": "first", "type": ["null", avro_type], "default": None}
    contract = contract_of(first, LONG, TEXT, key=("first", "id"))
    writer = Writer(lake, contract)
    keys = [{"first": value, "id": number} for value in (one, other, None) for number in (1, 2)]
    writer.put([{**key, "note": f"note {place}"} for place, key in enumerate(keys)])
    writer.put([{**keys[0], "note": "new"}, {**keys[4], "note": "newer"}], [keys[2], keys[5]])
    assert sorted(row["note"] for row in lake.rows()) == ["new", "newer", "note 1", "note 3"]
    assert {row["note"] for row in lake.rows() if row["first"] is None} == {"newer"}


def test_a_flush_is_one_snapshot_with_its_positions(lake: Lake) -> None:
    """Removed rows, added rows and positions: a table that is set back is never halfway."""
    writer = Writer(lake)
    writer.put([order(1), order(2)])
    writer.put([order(1, amount=9.0)], [{"id": 2}])
    writer.put([], [{"id": 7}])
    with lake.table() as table:
        summaries = [each.summary for each in table.metadata.snapshots]
        told = [
            (each.operation.value, each.additional_properties["headrace.positions.out.orders"])
            for each in summaries
            if each
        ]
        # Deletions of keys that are not there change nothing but positions.
        assert told == [("append", '{"0": 2}'), ("overwrite", '{"0": 4}'), ("append", '{"0": 5}')]
    assert lake.rows() == [order(1, amount=9.0)]
    assert lake.left_over() == set()


def test_rows_that_stay_are_copied_as_they_are(lake: Lake) -> None:
    """A null list of records stays null, where pyiceberg would read an empty one; other chunks join into one file."""
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "text", "type": "string"}]}
    items = {"name": "items", "type": ["null", {"type": "array", "items": inner}], "default": None}
    writer = Writer(lake, contract_of(LONG, items))
    writer.put([{"id": 1, "items": None}, {"id": 2, "items": [{"text": "x"}]}])
    writer.put([{"id": 2, "items": []}])
    (file,) = lake.files()
    found = {row["id"]: row["items"] for row in pq.read_table(file).to_pylist()}
    assert found == {1: None, 2: []}


def test_files_that_are_older_than_the_columns_are_rewritten(lake: Lake) -> None:
    """Of a narrower type, under another name, without a column that the key lies in now."""
    number = {"name": "number", "type": "int"}
    rate = {"name": "rate", "type": ["null", "float"], "default": None}
    Writer(lake, contract_of(number, rate, key=("number",))).put(
        [{"number": 1, "rate": 0.5}, {"number": 2, "rate": 1.5}]
    )
    wider = {"name": "id", "type": "long", "aliases": ["number"]}
    share = {"name": "share", "type": ["null", "double"], "default": None, "aliases": ["rate"]}
    writer = Writer(lake, contract_of(wider, share, TEXT))
    writer.put([{"id": 1, "share": 0.1, "note": "new"}])
    assert sorted(lake.rows(), key=lambda row: row["id"]) == [
        {"id": 1, "share": 0.1, "note": "new"},
        {"id": 2, "share": 1.5, "note": None},
    ]
    writer.put([], [{"id": 2}])
    assert [row["id"] for row in lake.rows()] == [1]


def test_a_column_that_was_dropped_does_not_come_back(lake: Lake) -> None:
    """One of the same name and type is another column: a file that is written anew keeps the values of the old one to
    itself."""
    writer = Writer(lake, contract_of(LONG, TEXT))
    writer.put([{"id": 1, "note": "old"}, {"id": 2, "note": "old"}])
    with lake.table() as table, table.update_schema() as update:
        update.delete_column("note")
    writer = Writer(lake, contract_of(LONG, TEXT))
    writer.put([{"id": 1, "note": "new"}])
    assert sorted(lake.rows(), key=lambda row: row["id"]) == [{"id": 1, "note": "new"}, {"id": 2, "note": None}]


def test_small_files_are_joined_and_large_ones_bounded(lake: Lake) -> None:
    """Files that are written anew become one with the new rows, up to the size that the table asks for."""
    writer = Writer(lake)
    for first in (0, 100, 200):
        writer.put([order(number) for number in range(first, first + 100)])
    assert len(lake.files()) == 3
    writer.put([order(number, amount=1.0) for number in (0, 100, 200)])
    assert len(lake.files()) == 1
    with lake.table() as table, table.transaction() as change:
        change.set_properties({"write.target-file-size-bytes": "1"})
    writer.put([order(1, amount=1.0)])
    assert len(lake.files()) == 2
    assert len(lake.rows()) == 300


def test_files_that_cannot_hold_a_key_are_not_opened(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their smallest and largest key; one between them is looked for in the file."""
    writer = Writer(lake)
    for first in (0, 100, 200):
        writer.put([order(number) for number in range(first, first + 100, 2)])
    asked: list[str] = []
    opened = held_files._opened

    def counted(table: Table, file: Any, place: str) -> Any:
        asked.append(file.file_path)
        return opened(table, file, place)

    monkeypatch.setattr(held_files, "_opened", counted)
    writer.put([order(99), order(99_999)], [{"id": 199}])
    assert asked == []
    writer.put([order(51)])
    assert len(asked) == 1
    assert len(lake.rows()) == 153
    writer.put([], [{"id": 298}, {"id": 0}])
    assert len(lake.rows()) == 151


def test_another_commit_in_between_is_built_upon(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else replaces the file that we rewrite: ours is done again on top of it, and nothing is left over."""
    writer, another = Writer(lake), Writer(lake, name="another")
    writer.put([order(1), order(2), order(3)])
    commit, met = SqlCatalog.commit_table, list[int]()

    def meeting(self: SqlCatalog, *given: Any) -> Any:
        if not met:
            met.append(1)
            another.put([order(2, amount=20.0)], [{"id": 3}])
        return commit(self, *given)

    monkeypatch.setattr(SqlCatalog, "commit_table", meeting)
    writer.put([order(1, amount=10.0)])
    assert met
    assert sorted(lake.rows(), key=lambda row: row["id"]) == [order(1, amount=10.0), order(2, amount=20.0)]
    assert lake.left_over() == set()


def test_another_process_of_the_same_partition_is_found_out(lake: Lake) -> None:
    """Before a file is written."""
    one, other = Writer(lake), Writer(lake)
    one.put([order(1)])
    with pytest.raises(PositionMoved):
        other.put([order(1, amount=5.0)])
    assert lake.rows() == [order(1)]
    assert lake.left_over() == set()


def test_the_key_is_the_table_s_identifier(lake: Lake) -> None:
    """Engines know the rows by it; a column that can be null, or a double, cannot be one."""
    writer = Writer(lake)
    writer.put([order(1)])
    with lake.table() as table:
        assert table.schema().identifier_field_names() == {"id"}
        assert table.properties["write.target-file-size-bytes"] == str(fitting.KEYED_FILE_BYTES)
    with closing(lake.catalog()) as catalog:
        catalog.drop_table(NAME)
    Writer(lake, contract_of({"name": "id", "type": ["null", "long"]}, TEXT)).put([{"id": None, "note": "x"}])
    with lake.table() as table:
        assert table.schema().identifier_field_names() == set()


def test_a_key_that_cannot_be_compared_stops(lake: Lake) -> None:
    """A record as key; a table that says its rows are known by something else."""
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "text", "type": "string"}]}
    with pytest.raises(TargetInvalid, match="key column 'deep' is struct"):
        Writer(lake, contract_of({"name": "deep", "type": inner}, key=("deep",)))
    Writer(lake, contract_of(LONG, {"name": "note", "type": "string"}, key=("id", "note"))).put([])
    with pytest.raises(TargetInvalid, match=r"identifier fields are \['id', 'note'\], the key is \['id'\]"):
        Writer(lake, contract_of(LONG, {"name": "note", "type": "string"}))


def test_a_table_with_a_sort_order_of_somebody_else_is_written(lake: Lake) -> None:
    """Rows come unsorted, as files without a sort order may be."""
    schema = Schema(
        NestedField(1, "id", LongType(), required=False), NestedField(2, "note", StringType(), required=False)
    )
    with closing(lake.catalog()) as catalog:
        catalog.create_namespace("shop")
        catalog.create_table(NAME, schema, sort_order=SortOrder(SortField(2, transform=IdentityTransform())))
    writer = Writer(lake, contract_of(LONG, TEXT))
    writer.put([{"id": 2, "note": "b"}, {"id": 1, "note": "a"}])
    writer.put([{"id": 2, "note": "B"}])
    assert sorted(row["note"] for row in lake.rows()) == ["B", "a"]


def test_a_file_that_cannot_be_written_anew_stops(lake: Lake, tmp_path: Path) -> None:
    """One that somebody added without field ids; nothing of the flush is left."""
    writer = Writer(lake)
    writer.put([order(1)])
    with lake.table() as table:
        added = tmp_path / "added.parquet"
        rows = pa.table({"id": [5], "customer": ["x"], "amount": [1.0]})
        pq.write_table(rows.cast(rows.schema.set(0, rows.schema.field(0).with_nullable(False))), added)
        table.add_files([str(added)])
    with pytest.raises(TargetInvalid, match=r"added\.parquet has no field ids"):
        writer.put([order(5), order(1, amount=3.0)])
    assert sorted(row["id"] for row in lake.rows()) == [1, 5]
    assert lake.left_over() == set()


def test_rows_that_others_deleted_in_files_of_their_own_stop(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would come back in a file that is written anew."""
    writer = Writer(lake)
    writer.put([order(1), order(2)])
    planned = held_files._planned

    def with_deletes(table: Table, place: str) -> Any:
        tasks = planned(table, place)
        for task in tasks:
            task.delete_files = {task.file}
        return tasks

    monkeypatch.setattr(held_files, "_planned", with_deletes)
    with pytest.raises(TargetInvalid, match="files of deleted rows") as raised:
        writer.put([order(1, amount=3.0)])
    assert "copy-on-write" in raised.value.cure


def test_a_table_that_is_another_one_is_looked_at_first(lake: Lake) -> None:
    """Dropped and made anew by somebody else before the first flush: its columns have numbers that were known."""
    writer = Writer(lake)
    with closing(lake.catalog()) as catalog:
        catalog.drop_table(NAME)
        catalog.create_table(NAME, Schema(NestedField(1, "id", StringType(), required=False)))
    with pytest.raises(TargetUnavailable, match="it was changed"):
        writer.put([order(1)])


def test_an_explanation_tells_of_rows_that_are_replaced(lake: Lake) -> None:
    """How many keys, and how many rows come in."""
    batch = batch_of(order_contract(), [order(1), order(1), order(2)], 0, [{"id": 3}])
    lines = IcebergConnector().explain(lake.config(), order_contract(), batch)
    assert lines[0] == "write data files of shop.orders anew, without rows that have one of 3 keys"
    assert lines[1].startswith("append a data file of 2 rows to shop.orders: id long")
