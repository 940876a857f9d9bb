"""Parquet files on a disk where something is wrong: with the disk, the folder, a column, or another process."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.sdk import ConnectorConfig, EgressBatch, Mode, PositionMoved, TargetInvalid, TargetUnavailable
from headrace.testing.sink_harness import TOPIC, order, order_contract
from headrace_parquet import ParquetConnector, ParquetOptions, folder
from headrace_parquet.files import Covered


def opened(path: Path, contract: Contract | None = None) -> tuple[ParquetConnector, dict[int, int]]:
    connector = ParquetConnector()
    config = ConnectorConfig("out", TOPIC, Mode.APPEND, ParquetOptions(path=path))
    return connector, dict(connector.open(config, contract or order_contract(), [0]))


def batch(first: int, last: int) -> EgressBatch:
    """Offsets of partition 0, both included, with ids as their offsets."""
    offsets = np.arange(first, last + 1, dtype=np.int64)
    rows = pa.Table.from_pylist([order(each) for each in offsets.tolist()], schema=to_arrow(order_contract().schema))
    zeros = np.zeros(len(offsets), np.int32)
    return EgressBatch(
        rows=rows,
        key=("id",),
        operation=zeros.astype(np.int8),
        partition=zeros,
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets,
    )


def written(connector: ParquetConnector, first: int, last: int) -> None:
    connector.write(batch(first, last), {0: last + 1})


def checked(path: Path, contract: Contract | None = None) -> list[str]:
    config = ConnectorConfig("out", TOPIC, Mode.APPEND, ParquetOptions(path=path))
    return list(ParquetConnector().check(config, contract or order_contract()))


def ids(path: Path) -> list[int]:
    files = sorted((path / TOPIC / "0").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None)["id"].to_pylist()]


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The first file written goes to a device that has no room."""
    met: list[Path] = []
    write = folder._write_synced

    def onto_full(table: pa.Table, covered: Covered, path: Path, options: ParquetOptions) -> None:
        if not met:
            met.append(path)
            path.symlink_to("/dev/full")
        write(table, covered, path, options)

    monkeypatch.setattr(folder, "_write_synced", onto_full)
    return met


def test_a_full_disk_is_tried_again(tmp_path: Path, full_disk: list[Path]) -> None:
    """The operating system's own ENOSPC: no file, nothing left over, and each row once when there is room."""
    connector, _ = opened(tmp_path)
    written(connector, 0, 9)
    with pytest.raises(TargetUnavailable, match=os.strerror(28)):
        connector.flush()
    assert full_disk
    assert list((tmp_path / TOPIC / "0").iterdir()) == []
    connector, positions = opened(tmp_path)
    assert positions == {}
    written(connector, 0, 9)
    connector.flush()
    assert ids(tmp_path) == list(range(10))


@pytest.mark.parametrize(("one", "other"), [(9, 4), (4, 9)])
def test_of_two_processes_with_batches_of_different_size_one_gets_in(tmp_path: Path, one: int, other: int) -> None:
    """Names that differ and offsets that overlap."""
    (first, _), (second, _) = opened(tmp_path), opened(tmp_path)
    written(first, 0, one)
    written(second, 0, other)
    first.flush()
    with pytest.raises(PositionMoved):
        second.flush()
    assert ids(tmp_path) == list(range(one + 1))


def test_the_look_and_the_name_are_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that looks meanwhile waits: it cannot find the offsets free between our look and our name."""
    connector, _ = opened(tmp_path)
    written(connector, 0, 9)
    tried: list[bool] = []
    look = folder.covered_offsets

    def looking(path: Path) -> list[Covered]:
        tried.append(_is_locked(path))
        return look(path)

    monkeypatch.setattr(folder, "covered_offsets", looking)
    connector.flush()
    assert tried == [True]


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_path_that_is_a_file_stops(tmp_path: Path) -> None:
    """Somebody must name a folder."""
    (tmp_path / "rows").write_text("not a folder")
    with pytest.raises(TargetInvalid, match="rows"):
        opened(tmp_path / "rows")


def test_a_type_that_parquet_has_not_stops_before_anything_is_read(tmp_path: Path) -> None:
    """A record without fields."""
    with pytest.raises(TargetInvalid, match="columns"):
        opened(tmp_path, of_a_foreign_type())


def of_a_foreign_type() -> Contract:
    empty: dict[str, Any] = {"type": "record", "name": "Nothing", "fields": []}
    fields = [{"name": "id", "type": "long"}, {"name": "nothing", "type": empty}]
    return Contract(TOPIC, AvroSchema.parse({"type": "record", "name": "Row", "fields": fields}), key=("id",))


def test_a_check_tells_what_stands_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where a folder should be, at any depth, a folder without rights, a foreign type; nothing is made."""
    (tmp_path / "file").write_text("not a folder")
    assert checked(tmp_path / "file" / "below") == [
        f"{tmp_path / 'file'}: not a folder; name another place, or move it away"
    ]
    (tmp_path / "rows" / TOPIC).mkdir(parents=True)
    (tmp_path / "rows" / TOPIC / "0").write_text("not a folder")
    assert checked(tmp_path / "rows") == [
        f"{tmp_path / 'rows' / TOPIC / '0'}: not a folder; name another place, or move it away"
    ]
    with pytest.raises(TargetInvalid, match="columns"):
        checked(tmp_path / "new", of_a_foreign_type())
    assert checked(tmp_path / "new") == []
    # The tests' user may be root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert checked(tmp_path / "new" / "deep") == [
        f"{tmp_path}: not writable; give the egress a folder that it may write"
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "rows"]


def test_an_explanation_names_the_files(tmp_path: Path) -> None:
    """One for each partition, with rows and offsets, and not all of many."""
    config = ConnectorConfig("out", TOPIC, Mode.APPEND, ParquetOptions(path=tmp_path / "rows"))
    lines = ParquetConnector().explain(config, order_contract(), batch(3, 9))
    covers = "7 rows of 3 columns, zstd; offsets 3 to 9, from where the newest file ends"
    assert lines == [f"write {tmp_path}/rows/orders/0/*.parquet -- {covers}"]
    spread = replace(batch(0, 19), partition=np.arange(20, dtype=np.int32))
    lines = ParquetConnector().explain(config, order_contract(), spread)
    assert (len(lines), lines[-1]) == (6, "-- and 15 more files")
    assert list(tmp_path.iterdir()) == []
