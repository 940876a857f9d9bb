"""A warehouse without room: nothing is half there, and it goes on when there is room."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitStateUnknownException
from sqlalchemy.exc import OperationalError

from headrace.egress.config import EgressConfig
from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace.testing.full_disk import no_room
from headrace.testing.memory_log import MemoryLog
from headrace.testing.sink_harness import TOPIC, Stage, order, order_contract, wait_until
from headrace_iceberg import IcebergConnector
from headrace_iceberg.failures import translated

NAME = "shop.orders"
ROOM_BYTES = 64 * 1024
"""More than the catalog and a metadata file take, less than a data file of `ROWS`."""
ROWS = 20_000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract(), log=MemoryLog(lambda: int(time.time() * 1_000)))
    yield stage
    stage.close()


def place(folder: Path) -> dict[str, str]:
    return {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder / "lake")}


def config(folder: Path, mode: str) -> EgressConfig:
    return EgressConfig.model_validate(
        {
            "name": "out",
            "topic": TOPIC,
            "connector": "iceberg",
            "mode": mode,
            "options": {**place(folder), "table": NAME},
            "batch": {"rows_max": ROWS, "age_max_ms": 200},
            "retry": {"first_ms": 20, "max_ms": 100},
        }
    )


def check(stage: Stage, folder: Path, expected: list[tuple[int, float]]) -> None:
    """These rows, no data file that no snapshot has, and no dead letter."""
    with closing(SqlCatalog("headrace", **place(folder))) as catalog:
        table = catalog.load_table(NAME)
        rows = table.scan(selected_fields=("id", "amount")).to_arrow().to_pylist()
        known = {Path(each).name for each in table.inspect.all_data_files()["file_path"].to_pylist()}
    assert sorted((row["id"], row["amount"]) for row in rows) == sorted(expected)
    assert {each.name for each in (folder / "lake").rglob("data/*.parquet")} <= known
    assert not stage.records("out.dlq")


@pytest.mark.parametrize("mode", ["append", "replicate"])
def test_a_full_disk_is_tried_again_until_there_is_room(stage: Stage, tmp_path: Path, mode: str) -> None:
    """While rows are delivered: no file stays of a flush that failed, each row comes once, none is a dead letter."""
    runner = stage.runner(IcebergConnector(), config(tmp_path, mode))
    stage.publish([order(number) for number in range(20)])
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        with no_room(ROOM_BYTES):
            stage.publish([order(number, amount=number / 7) for number in range(10, ROWS)])
            wait_until(lambda: runner.counters.retries >= 3, "tried again and again")
            error = runner.status().error
            assert isinstance(error, TargetUnavailable)
            assert "File too large" in error.message
        wait_until(lambda: stage.is_delivered(runner), "delivered when there is room")
    early = [(number, float(number)) for number in range(20 if mode == "append" else 10)]
    check(stage, tmp_path, [*early, *((number, number / 7) for number in range(10, ROWS))])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OperationalError("UPDATE", None, Exception("database or disk is full")),
    ],
)
def test_a_commit_without_room_leaves_no_file(
    stage: Stage, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata file does not fit, or the catalog's own database: it is certain that nothing was committed."""
    commit, left = SqlCatalog.commit_table, [error] * 2

    def without_room(self: SqlCatalog, *given: Any) -> Any:
        if left:
            raise left.pop()
        return commit(self, *given)

    monkeypatch.setattr(SqlCatalog, "commit_table", without_room)
    stage.publish([order(number) for number in range(10)])
    runner = stage.deliver(IcebergConnector(), config(tmp_path, "append"))
    assert runner.counters.retries == 2
    check(stage, tmp_path, [(number, float(number)) for number in range(10)])
    assert len(list((tmp_path / "lake").rglob("data/*.parquet"))) <= 3
    assert len(list((tmp_path / "lake").rglob("metadata/*.avro"))) <= 6


def test_a_commit_of_which_nobody_knows_keeps_its_file(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come: the file may be the table's."""
    left = [CommitStateUnknownException("no answer")]
    commit = SqlCatalog.commit_table

    def unknown(self: SqlCatalog, *given: Any) -> Any:
        if left:
            raise left.pop()
        return commit(self, *given)

    monkeypatch.setattr(SqlCatalog, "commit_table", unknown)
    stage.publish([order(1)])
    stage.deliver(IcebergConnector(), config(tmp_path, "append"))
    assert len(list((tmp_path / "lake").rglob("data/*.parquet"))) == 2


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.", TargetUnavailable),
        ("AWS Error UNKNOWN (HTTP status 507) during PutObject operation: InsufficientStorage", TargetUnavailable),
        ("AWS Error UNKNOWN (HTTP status 403) during PutObject operation: QuotaExceeded", TargetUnavailable),
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", TargetInvalid),
    ],
)
def test_what_a_store_without_room_says(told: str, kind: type[Exception]) -> None:
    """Throttled, full, or over its quota, which some tell with the status of a missing right."""
    with pytest.raises(kind), translated("here"):
        raise OSError(told)
