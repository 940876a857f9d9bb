"""Iceberg tables that others change too, and positions that survive it: catalogs in SQLite, tables on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ForbiddenError
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.errors import DriftRefused
from headrace.egress.sdk import ConnectorConfig, EgressBatch, PositionMoved, TargetInvalid, TargetUnavailable
from headrace.testing.sink_harness import ORDER, TOPIC, Stage, order, order_contract, wait_until
from headrace_iceberg import IcebergConnector, IcebergOptions, commits, connector
from headrace_iceberg.types import iceberg_schema, plain_columns, widens

NAME = "shop.orders"


class Lake:
    """A catalog of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder}/catalog.db"

    def config(
        self, name: str = "out", drift: dict[str, str] | None = None, mode: str = "append", **more: Any
    ) -> EgressConfig:
        options = {"uri": self.uri, "warehouse": str(self.folder / "lake"), "table": NAME, **more}
        return EgressConfig.model_validate(
            {
                "name": name,
                "topic": TOPIC,
                "connector": "iceberg",
                "mode": mode,
                "options": options,
                "drift": drift or {},
                "batch": {"rows_max": 50, "age_max_ms": 20},
                "retry": {"first_ms": 1, "max_ms": 50},
            }
        )

    @contextmanager
    def table(self) -> Iterator[Table]:
        with closing(SqlCatalog("headrace", uri=self.uri, warehouse=str(self.folder / "lake"))) as catalog:
            yield catalog.load_table(NAME)

    def ids(self) -> list[int]:
        """As pyiceberg reads them."""
        with self.table() as table:
            return sorted(table.scan(selected_fields=("id",)).to_arrow()["id"].to_pylist())

    def data_files(self) -> int:
        return len(list((self.folder / "lake").rglob("data/*.parquet")))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


def parts(config: EgressConfig) -> tuple[IcebergConnector, ConnectorConfig]:
    made = IcebergConnector()
    return made, connector_config(config, made)


def opened(config: EgressConfig, contract: Contract | None = None) -> tuple[IcebergConnector, dict[int, int]]:
    made, given = parts(config)
    return made, dict(made.open(given, contract or order_contract(), [0, 1]))


def staged(made: IcebergConnector, first: int, last: int, partition: int = 0) -> None:
    """Offsets of a partition, both included, with ids as their offsets."""
    offsets = np.arange(first, last + 1, dtype=np.int64)
    rows = pa.Table.from_pylist([order(each) for each in offsets.tolist()], schema=to_arrow(order_contract().schema))
    batch = EgressBatch(
        rows=rows,
        key=("id",),
        operation=np.zeros(len(offsets), np.int8),
        partition=np.full(len(offsets), partition, np.int32),
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets,
    )
    made.write(batch, {partition: last + 1})


def flushed(config: EgressConfig, first: int, last: int, partition: int = 0) -> None:
    made, _ = opened(config)
    staged(made, first, last, partition)
    made.flush()
    made.close()


def contract_with(*fields: dict[str, Any]) -> Contract:
    return Contract(TOPIC, AvroSchema.parse({**ORDER, "fields": list(fields)}), key=("id",))


def positions_of(config: EgressConfig) -> dict[int, int]:
    made, positions = opened(config)
    made.close()
    return positions


def test_rows_and_positions_are_one_snapshot(lake: Lake) -> None:
    """Each flush adds one snapshot, which holds the positions of all partitions; so do the table's properties."""
    flushed(lake.config(), 0, 9)
    flushed(lake.config(), 0, 4, partition=1)
    with lake.table() as table:
        summaries = [each.summary.additional_properties for each in table.metadata.snapshots if each.summary]
        assert [each["headrace.positions.out.orders"] for each in summaries] == ['{"0": 10}', '{"0": 10, "1": 5}']
        assert '"positions": {"0": 10, "1": 5}' in table.properties["headrace.positions.out.orders"]
    assert lake.ids() == sorted([*range(10), *range(5)])


def test_another_egress_and_compaction_leave_positions_alone(lake: Lake) -> None:
    """Snapshots of others come on top: each egress finds its own newest one."""
    flushed(lake.config(), 0, 9)
    flushed(lake.config("other"), 0, 19)
    with lake.table() as table:
        table.overwrite(table.scan().to_arrow())
    assert positions_of(lake.config()) == {0: 10}
    assert positions_of(lake.config("other")) == {0: 20}


def test_positions_survive_the_expiry_of_their_snapshots(lake: Lake) -> None:
    """Compaction, then expiry of everything older: no snapshot holds the positions, the table does."""
    flushed(lake.config(), 0, 9)
    with lake.table() as table:
        table.overwrite(table.scan().to_arrow())
        newest = table.current_snapshot()
        assert newest is not None
        old = [each.snapshot_id for each in table.metadata.snapshots if each.snapshot_id != newest.snapshot_id]
        table.maintenance.expire_snapshots().by_ids(old).commit()
    assert positions_of(lake.config()) == {0: 10}
    flushed(lake.config(), 10, 19)
    assert lake.ids() == list(range(20))


@pytest.mark.parametrize("kept", [0, 1])
def test_a_table_that_is_set_back_gets_its_rows_again(lake: Lake, kept: int) -> None:
    """Rolled back by a person, also to before the first flush: positions go back with the rows."""
    made, _ = opened(lake.config())
    made.close()
    with lake.table() as table:
        table.append(pa.Table.from_pylist([order(1_000)], schema=table.schema().as_arrow()))
    for first in (0, 10):
        flushed(lake.config(), first, first + 9)
    with lake.table() as table:
        snapshot = sorted(table.metadata.snapshots, key=lambda each: each.sequence_number or 0)[kept]
        table.manage_snapshots().set_current_snapshot(snapshot_id=snapshot.snapshot_id).commit()
    assert positions_of(lake.config()) == ({0: 10} if kept else {})
    flushed(lake.config(), 10 * kept, 19)
    assert lake.ids() == [*range(20), 1_000]


def test_another_commit_in_between_is_no_reason_to_stop(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's rows are committed between our look and our commit: ours go on top, once, from one file."""
    made, _ = opened(lake.config())
    staged(made, 0, 9)
    before_commits(monkeypatch, lambda: flushed(lake.config("other"), 100, 109))
    made.flush()
    assert lake.ids() == [*range(10), *range(100, 110)]
    assert positions_of(lake.config()) == {0: 10}
    assert lake.data_files() == 2


def test_a_commit_of_the_same_partition_in_between_is_found_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same between our look and our commit, of the same offsets: no row twice, and our file is removed."""
    made, _ = opened(lake.config())
    staged(made, 0, 9)
    before_commits(monkeypatch, lambda: flushed(lake.config(), 0, 19))
    with pytest.raises(PositionMoved, match="partition 0 is at 20"):
        made.flush()
    assert lake.ids() == list(range(20))
    assert lake.data_files() == 1


def test_conflicts_without_end_are_given_back(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries the runner waits; nothing is left over."""
    made, _ = opened(lake.config())
    staged(made, 0, 9)
    tries: list[int] = []

    def fails(*_: object) -> None:
        tries.append(1)
        raise CommitFailedException("somebody was faster")

    monkeypatch.setattr(SqlCatalog, "commit_table", fails)
    with pytest.raises(TargetUnavailable, match="somebody was faster"):
        made.flush()
    assert len(tries) == connector.COMMITS_MAX
    assert lake.data_files() == 0


def test_a_lost_answer_of_a_commit_delivers_once(lake: Lake, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is there, its answer is not: its file stays, and reading goes on after it."""
    stage.publish([order(number) for number in range(30)])
    lost: list[int] = []
    commit = SqlCatalog.commit_table

    def loses(self: SqlCatalog, table: Table, *given: Any) -> Any:
        done = commit(self, table, *given)
        if len(lost) < 3:
            lost.append(1)
            raise CommitStateUnknownException("no answer")
        return done

    monkeypatch.setattr(SqlCatalog, "commit_table", loses)
    stage.deliver(IcebergConnector(), lake.config())
    assert lost
    assert lake.ids() == list(range(30))


def test_flushes_without_rows_move_positions(lake: Lake) -> None:
    """Dead letters and rows left out."""
    made, _ = opened(lake.config())
    made.write(empty_batch(), {0: 7})
    made.flush()
    assert positions_of(lake.config()) == {0: 7}
    assert lake.data_files() == 0


def empty_batch() -> EgressBatch:
    nothing = np.zeros(0, np.int64)
    return EgressBatch(
        rows=to_arrow(order_contract().schema).empty_table(),
        key=("id",),
        operation=nothing.astype(np.int8),
        partition=nothing.astype(np.int32),
        offset=nothing,
        timestamp_ms=nothing,
        version=nothing,
    )


def test_snapshots_and_metadata_are_bounded(lake: Lake) -> None:
    """Many flushes: the oldest snapshots expire, old metadata files go, every row stays."""
    config = lake.config(snapshots_max=3, metadata_versions_max=4)
    made, _ = opened(config)
    for first in range(12):
        staged(made, first, first)
        made.flush()
    with lake.table() as table:
        assert len(table.metadata.snapshots) <= 3 * commits.EXPIRY_SLACK
    assert len(list((lake.folder / "lake").rglob("*.metadata.json"))) <= 6
    assert lake.ids() == list(range(12))
    assert positions_of(config) == {0: 12}


def test_drift_is_followed(lake: Lake) -> None:
    """Widened, renamed by alias, added, dropped: old rows keep their values under the new definition."""
    number, amount = {"name": "id", "type": "long"}, {"name": "amount", "type": ["null", "float"], "default": None}
    customer = {"name": "customer", "type": ["null", "string"], "default": None}
    opened(lake.config(), contract_with(number, amount, customer))[0].close()
    with lake.table() as table:
        table.append(
            pa.Table.from_pylist([{"id": 1, "amount": 0.5, "customer": "a"}], schema=table.schema().as_arrow())
        )
    wider = {"name": "amount", "type": ["null", "double"], "default": None}
    renamed = {"name": "buyer", "type": ["null", "string"], "default": None, "aliases": ["customer"]}
    made, _ = opened(lake.config(), contract_with(number, wider, renamed, {"name": "note", "type": "string"}))
    made.close()
    with lake.table() as table:
        assert table.scan().to_arrow().to_pylist() == [{"id": 1, "amount": 0.5, "buyer": "a", "note": None}]
    opened(lake.config(drift={"drop": "apply"}), contract_with(number, wider))[0].close()
    with lake.table() as table:
        assert table.schema().column_names == ["id", "amount"]


@pytest.mark.parametrize(
    ("field", "policy"),
    [
        ({"name": "amount", "type": ["null", "string"], "default": None}, {}),
        ({"name": "amount", "type": ["null", "double"], "default": None}, {"widen": "refuse"}),
    ],
)
def test_drift_that_cannot_or_must_not_be_followed_stops(
    lake: Lake, field: dict[str, Any], policy: dict[str, str]
) -> None:
    """The table stays as it is."""
    number, amount = {"name": "id", "type": "long"}, {"name": "amount", "type": ["null", "float"], "default": None}
    opened(lake.config(), contract_with(number, amount))[0].close()
    with pytest.raises(DriftRefused, match="amount"):
        opened(lake.config(drift=policy), contract_with(number, field))
    with lake.table() as table:
        assert str(table.schema().find_type("amount")) == "float"


@pytest.mark.parametrize("mode", ["append", "replicate"])
def test_a_column_that_somebody_changes_meanwhile_is_compared_again(lake: Lake, stage: Stage, mode: str) -> None:
    """Dropped and added by somebody else between two flushes: the egress opens again, and goes on by its policy."""
    runner = stage.runner(IcebergConnector(), lake.config(mode=mode))
    stage.publish([order(1)])
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        with lake.table() as table, table.update_schema() as update:
            update.delete_column("customer")
            update.add_column("theirs", LongType())
        stage.publish([order(2)])
        wait_until(lambda: stage.is_delivered(runner), "delivered after the change")
    with lake.table() as table:
        rows = {row["id"]: (row["customer"], row["theirs"]) for row in table.scan().to_arrow().to_pylist()}
    assert rows == {1: (None, None), 2: ("customer 2", None)}


@pytest.mark.parametrize("mode", ["append", "replicate"])
def test_a_dropped_table_is_made_again_and_filled_from_the_beginning(lake: Lake, stage: Stage, mode: str) -> None:
    """Its positions went with it."""
    runner = stage.runner(IcebergConnector(), lake.config(mode=mode))
    stage.publish([order(1)])
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        with closing(SqlCatalog("headrace", uri=lake.uri, warehouse=str(lake.folder / "lake"))) as catalog:
            catalog.drop_table(NAME)
        stage.publish([order(2)])
        wait_until(lambda: stage.is_delivered(runner) and runner.counters.retries > 0, "delivered again")
    assert lake.ids() == [1, 2]


def test_a_table_of_other_columns_in_its_place_stops_with_the_column(lake: Lake, stage: Stage) -> None:
    """Dropped and made anew by somebody else; nothing goes into it."""
    runner = stage.runner(IcebergConnector(), lake.config(mode="replicate"))
    stage.publish([order(1)])

    def replaced() -> None:
        with stage.running(runner) as thread:
            wait_until(lambda: stage.is_delivered(runner), "delivered")
            with closing(SqlCatalog("headrace", uri=lake.uri, warehouse=str(lake.folder / "lake"))) as catalog:
                catalog.drop_table(NAME)
                catalog.create_table(NAME, Schema(NestedField(1, "id", StringType(), required=False)))
            stage.publish([order(2)])
            wait_until(lambda: not thread.is_alive(), "stopped")

    with pytest.raises(DriftRefused, match="column 'id' is string"):
        replaced()
    assert lake.ids() == []


def test_a_catalog_that_is_away_for_long_is_tried_again(lake: Lake, stage: Stage) -> None:
    """Another program holds the catalog for many tries, then lets go: every row once."""
    runner = stage.runner(IcebergConnector(), lake.config(uri=f"{lake.uri}?timeout=0.05"))
    stage.publish([order(1)])
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        with held(lake.folder / "catalog.db"):
            stage.publish([order(2)])
            wait_until(lambda: runner.counters.retries >= 3, "tried again and again")
            assert isinstance(runner.status().error, TargetUnavailable)
        wait_until(lambda: stage.is_delivered(runner), "delivered when it is back")
    assert lake.ids() == [1, 2]


@contextmanager
def held(catalog: Path) -> Iterator[None]:
    with closing(sqlite3.connect(catalog, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_a_partitioned_table_and_a_required_column_stop(lake: Lake) -> None:
    """What this connector cannot fill is told before anything is read."""
    (lake.folder / "lake").mkdir()
    schema = Schema(NestedField(1, "id", LongType(), required=False))
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "id"))
    with closing(SqlCatalog("headrace", uri=lake.uri, warehouse=str(lake.folder / "lake"))) as catalog:
        catalog.create_namespace("shop")
        catalog.create_table(NAME, schema, partition_spec=spec)
        with pytest.raises(TargetInvalid, match="partitioned"):
            opened(lake.config())
        catalog.drop_table(NAME)
        catalog.create_table(NAME, Schema(NestedField(1, "theirs", LongType(), required=True)))
        with pytest.raises(TargetInvalid, match="'theirs' is required"):
            opened(lake.config())


def test_a_type_that_iceberg_has_not_stops(lake: Lake) -> None:
    """A record without fields; by the column's name."""
    empty = {"type": "record", "name": "Nothing", "fields": []}
    with pytest.raises(TargetInvalid, match="column 'nothing': Iceberg has no type"):
        opened(lake.config(), contract_with({"name": "id", "type": "long"}, {"name": "nothing", "type": empty}))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"uri": "sqlite:////nowhere/at/all.db", "warehouse": "lake"}, "correct `uri`"),
        ({"uri": "oracle9://host/db", "warehouse": "lake"}, "correct `uri`"),
        ({"uri": "sqlite:///catalog.db"}, "set `warehouse`"),
        ({"uri": "sqlite:///catalog.db", "warehouse": "lake", "properties": {"s3.region": "${NOBODY_SET}"}}, "export"),
    ],
)
def test_a_catalog_that_cannot_be_stops(
    lake: Lake, options: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the next step."""
    monkeypatch.chdir(lake.folder)
    config = lake.config().model_copy(update={"options": {**options, "table": NAME}})
    with pytest.raises(TargetInvalid) as raised:
        opened(config)
    assert reason in raised.value.cure


def test_refused_rights_stop(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that says 403."""
    made, _ = opened(lake.config())
    staged(made, 0, 1)

    def refuses(*_: object) -> None:
        raise ForbiddenError("ForbiddenException: no write")

    monkeypatch.setattr(SqlCatalog, "commit_table", refuses)
    with pytest.raises(TargetInvalid, match="no write"):
        made.flush()


def test_secrets_are_references() -> None:
    """A token in the file is refused without being repeated."""
    with pytest.raises(ValidationError, match="does not belong in a file"):
        IcebergOptions.model_validate({"uri": "https://catalog", "properties": {"token": "abc123"}})
    with pytest.raises(ValidationError, match="does not belong in a file"):
        IcebergOptions.model_validate({"uri": "postgresql://me:pw@host/db", "warehouse": "lake"})


def before_commits(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """`act` once, when the next commit is about to reach the catalog."""
    commit, acted = SqlCatalog.commit_table, []

    def acting(self: SqlCatalog, *given: Any) -> Any:
        if not acted:
            acted.append(True)
            act()
        return commit(self, *given)

    monkeypatch.setattr(SqlCatalog, "commit_table", acting)


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        (pa.int32(), pa.int64(), True),
        (pa.int64(), pa.int32(), False),
        (pa.int32(), pa.float64(), False),
        (pa.decimal128(10, 2), pa.decimal128(12, 2), True),
        (pa.decimal128(10, 2), pa.decimal128(9, 2), False),
        (pa.decimal128(10, 2), pa.decimal128(12, 3), False),
        (pa.list_(pa.int32()), pa.list_(pa.int64()), True),
        (pa.map_(pa.string(), pa.float32()), pa.map_(pa.string(), pa.float64()), True),
        (pa.struct({"a": pa.int32()}), pa.struct({"a": pa.int64(), "b": pa.string()}), True),
        (pa.struct({"a": pa.int32(), "b": pa.string()}), pa.struct({"a": pa.int32()}), False),
        (pa.list_(pa.int32()), pa.int64(), False),
    ],
)
def test_what_iceberg_can_widen(old: pa.DataType, new: pa.DataType, fits: bool) -> None:
    """Int to long, float to double, more digits of the same scale, more fields; at every depth, and nothing else."""
    types = [plain_columns(iceberg_schema(pa.schema({"column": each})))["column"] for each in (old, new)]
    assert widens(*types) is fits


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ({"type": "array", "items": "int"}, {"type": "array", "items": "long"}),
        ({"type": "map", "values": "float"}, {"type": "map", "values": "double"}),
    ],
)
def test_columns_are_widened_at_depth(lake: Lake, narrow: dict[str, Any], wide: dict[str, Any]) -> None:
    """The table takes it, and the next opening finds nothing to do."""
    number = {"name": "id", "type": "long"}
    opened(lake.config(), contract_with(number, {"name": "deep", "type": narrow}))[0].close()
    for _ in range(2):
        opened(lake.config(), contract_with(number, {"name": "deep", "type": wide}))[0].close()
        with lake.table() as table:
            assert len(table.metadata.schemas) == 2
