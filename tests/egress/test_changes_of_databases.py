"""Changes of databases on their way to a target: versions, values that the source did not tell, truncations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from headrace.contracts.codec import Decoded
from headrace.contracts.contract import TopicKind
from headrace.contracts.debezium.unavailable import PLACEHOLDER
from headrace.contracts.envelope import SOURCE_SCHEMA
from headrace.egress.config import connector_config
from headrace.egress.errors import EgressInvalid
from headrace.egress.replay_input import REPLAYS_FROM
from headrace.egress.sdk import Mode
from headrace.egress.versions import FILE_BITS, Versions, source_versions
from headrace.log.columns import binary_column, headers_column
from headrace.log.port import RecordBatch
from headrace.log.replays import Replay
from headrace.testing.sink_harness import Stage, order, order_contract
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Target

UNTOLD = {**order(1), "customer": PLACEHOLDER}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A topic of changes with one partition."""
    stage = Stage(tmp_path, order_contract(TopicKind.CHANGE), partitions=1)
    yield stage
    stage.close()


def reasons(stage: Stage) -> list[str]:
    return sorted(
        value.decode()
        for record in stage.records("out.dlq")
        for name, value in record.headers
        if name == "headrace.error.code" and value is not None
    )


def sources(rows: Sequence[dict[str, Any]]) -> Any:
    base = {"version": "1", "connector": "x", "name": "n", "ts_ms": 1, "snapshot": "false", "db": "d", "table": "t"}
    names = [each.name for each in SOURCE_SCHEMA.fields]
    frame = pl.DataFrame(
        [{**dict.fromkeys(names), **base, **row} for row in rows],
        schema_overrides=dict.fromkeys(("sequence", "file"), pl.String)
        | dict.fromkeys(("lsn", "pos", "row"), pl.Int64),
    )
    return frame.to_struct().to_arrow()


@pytest.mark.parametrize(
    ("source", "version"),
    [
        ({"lsn": 23916032, "sequence": '["1","23916032"]'}, 23916032),
        ({"sequence": '[null,"77"]'}, 77),
        ({"sequence": '["77",null]'}, 77),
        ({"file": "binlog.000012", "pos": 500, "row": 3}, (12 << FILE_BITS) + 503),
        ({"file": "a.b.000002", "pos": 4}, (2 << FILE_BITS) + 4),
        ({"file": "binlog", "pos": 500}, None),
        ({"file": f"b.{2**23}", "pos": 500}, None),
        ({"sequence": "41"}, 41),
        ({}, None),
    ],
)
def test_positions_of_databases(source: dict[str, Any], version: int | None) -> None:
    """PostgreSQL, a chunk of a snapshot beside the stream, MySQL, SQLite, and what is no number."""
    assert source_versions(sources([source])).to_list() == [version]


def records(keys: Sequence[bytes | None], *, first: int = 0, partition: int = 0) -> RecordBatch:
    count = len(keys)
    values = binary_column([b"v"] * count)
    return RecordBatch(
        "orders",
        np.full(count, partition, np.int32),
        np.arange(first, first + count, dtype=np.int64),
        np.zeros(count, np.int64),
        binary_column(list(keys)),
        values,
    )


def changes(versions: Versions, batch: RecordBatch, positions: Sequence[int | None]) -> list[int]:
    """Versions of records with these positions; None is a tombstone."""
    rows = [row for row, position in enumerate(positions) if position is not None]
    table = pa.table({"source": sources([{"lsn": positions[row]} for row in rows])}) if rows else pa.table({"x": []})
    return versions.of_changes(batch, Decoded(table, np.array(rows, np.int64), [])).tolist()


def test_a_tombstone_has_the_version_of_its_deletion() -> None:
    """In the same batch, in the next one, and after a restart, where only its own offset is known. Of another key the
    highest position so far counts, since the deletion may have been compacted away."""
    versions = Versions()
    assert changes(versions, records([b"a", b"b", b"b", b"a"]), [50, 40, None, 60]) == [50, 40, 40, 60]
    assert changes(versions, records([b"a", b"c", b"c"], first=4), [None, 55, None]) == [60, 55, 55]
    assert changes(versions, records([b"d"], first=7), [None]) == [60]
    assert changes(versions, records([b"d"], first=0, partition=1), [None]) == [0]
    versions.restart()
    assert changes(versions, records([b"a"], first=8), [None]) == [8]


def test_a_replayed_dead_letter_has_the_version_of_its_record() -> None:
    """Of records with offsets alone; in a topic of changes its position, if it has one."""
    place = {"topic": "orders", "partition": "0", "offset": "17"}
    headers = Replay("out.dlq/0/3", 1, "deliver", "egress", "0_0", None, place, ()).to_headers()
    batch = records([b"a", b"b"], first=5, partition=REPLAYS_FROM)
    marked = RecordBatch(
        batch.topic,
        batch.partition,
        batch.offset,
        batch.timestamp_ms,
        batch.key,
        batch.value,
        headers_column([headers, headers]),
    )
    assert Versions().of_records(marked).tolist() == [17, 17]
    assert changes(Versions(), marked, [99, None]) == [99, 17]


def test_rows_carry_versions(stage: Stage, make_config: MakeConfig) -> None:
    """The position in the log of the database, for deletions too; in a topic of rows the offset."""
    target = Target()
    stage.publish_changes([("c", None, order(1)), ("d", order(1), None)], positions=[700, 800])
    stage.deliver(MemoryConnector(target), make_config(Mode.REPLICATE), stage.contract)
    assert target.versions == [700, 800, 800]


def test_rows_of_a_table_carry_offsets(tmp_path: Path, make_config: MakeConfig) -> None:
    """A topic that says nothing of a source."""
    stage = Stage(tmp_path, order_contract(), partitions=1)
    target = Target()
    stage.publish([order(1), order(2)])
    stage.deliver(MemoryConnector(target), make_config(Mode.REPLICATE))
    assert target.versions == [0, 1]
    stage.close()


def test_untold_values_reach_who_can_leave_a_column_alone(stage: Stage, make_config: MakeConfig) -> None:
    """A null that says so, under the target's name of the column; no dead letter."""
    target = Target(partial_update=True)
    stage.publish_changes([("c", None, order(1)), ("u", None, UNTOLD)])
    config = make_config(Mode.REPLICATE, columns={"id": "id", "who": "customer", "amount": "amount"})
    stage.deliver(MemoryConnector(target), config, stage.contract)
    assert target.rows[-1] == {"id": 1, "who": None, "amount": 1.0}
    assert target.untold == [(1, "who")]
    assert reasons(stage) == []


def test_untold_values_are_dead_letters_where_they_are_needed(stage: Stage, make_config: MakeConfig) -> None:
    """For a target that cannot leave a column alone, and for a filter that looks at it; not where nobody asks."""
    stage.publish_changes([("u", None, UNTOLD)])
    for number, (can, more) in enumerate(
        [(False, {}), (True, {"filter": "customer <> 'x'"}), (False, {"columns": ["id"]})]
    ):
        target = Target(partial_update=can)
        config = make_config(Mode.REPLICATE, name=f"out{number}", **more)
        stage.deliver(MemoryConnector(target), config, stage.contract)
        assert len(stage.records(f"out{number}.dlq")) == (number < 2)
        assert len(target.rows) == (number == 2)


def test_a_truncation_is_skipped_unless_the_file_says_otherwise(stage: Stage, make_config: MakeConfig) -> None:
    """`skip` (the default) counts it, `refuse` makes a dead letter, `apply` hands it over in its place."""
    stage.publish_changes([("c", None, order(1))], positions=[1])
    stage.publish_truncate(2)
    stage.publish_changes([("c", None, order(2))], positions=[3])
    emptied = {"id": None, "customer": None, "amount": None, "__truncate": True}
    expected = {"skip": ([order(1), order(2)], []), "apply": ([order(1), emptied, order(2)], [])}
    expected["refuse"] = ([order(1), order(2)], ["egress.truncate_refused"])
    for policy, (rows, dead) in expected.items():
        target = Target(truncate=True)
        more = {} if policy == "skip" else {"truncate": policy}
        runner = stage.deliver(MemoryConnector(target), make_config(Mode.REPLICATE, **more, name=policy))
        assert target.rows == rows
        assert len(stage.records(f"{policy}.dlq")) == len(dead)
        assert runner.counters.truncates_skipped == (policy == "skip")
        assert runner.counters.truncates == (policy == "apply")


@pytest.mark.parametrize(("refuses_stale", "dead"), [(True, 0), (False, 2)])
def test_a_truncation_of_several_partitions_needs_versions(
    tmp_path: Path, make_config: MakeConfig, refuses_stale: bool, dead: int
) -> None:
    """Rows of another partition may be newer than it: only a target that knows the age of its rows gets it."""
    stage = Stage(tmp_path, order_contract(TopicKind.CHANGE), partitions=2)
    stage.publish_truncate(2)
    target = Target(truncate=True, refuses_stale=refuses_stale)
    stage.deliver(MemoryConnector(target), make_config(Mode.REPLICATE, truncate="apply"), stage.contract)
    assert reasons(stage) == ["egress.truncate_unsupported"] * dead
    assert len(target.rows) == 2 - dead
    stage.close()


@pytest.mark.parametrize(
    ("mode", "can", "message"), [(Mode.REPLICATE, False, "connector 'memory'"), (Mode.UPSERT, True, "mode 'upsert'")]
)
def test_a_target_that_cannot_truncate_is_told_so(make_config: MakeConfig, mode: Mode, can: bool, message: str) -> None:
    """`truncate: apply` is refused before anything is read."""
    with pytest.raises(EgressInvalid, match=message):
        connector_config(make_config(mode, truncate="apply"), MemoryConnector(Target(truncate=can)))
