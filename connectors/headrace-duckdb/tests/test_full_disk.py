"""A disk without room for the file or its log of changes: nothing is half there, and it goes on when there is room."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from headrace.egress.config import EgressConfig
from headrace.egress.sdk import TargetUnavailable
from headrace.testing.full_disk import no_room
from headrace.testing.memory_log import MemoryLog
from headrace.testing.sink_harness import TOPIC, Stage, order, order_contract, wait_until
from headrace_duckdb import DuckDbConnector

ROOM_BYTES = 64 * 1024
"""Less than one block of a DuckDB file, and than what `ROWS` take in its log of changes."""
ROWS = 3_000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract(), log=MemoryLog(lambda: int(time.time() * 1_000)))
    yield stage
    stage.close()


def config(folder: Path, mode: str, *, keep_open: bool) -> EgressConfig:
    return EgressConfig.model_validate(
        {
            "name": "out",
            "topic": TOPIC,
            "connector": "duckdb",
            "mode": mode,
            "options": {"path": folder / "target.duckdb", "table": "target", "keep_open": keep_open},
            "batch": {"rows_max": ROWS, "age_max_ms": 200},
            "retry": {"first_ms": 20, "max_ms": 100},
        }
    )


@pytest.mark.parametrize("mode", ["append", "replicate"])
@pytest.mark.parametrize("keep_open", [False, True])
def test_a_full_disk_is_tried_again_until_there_is_room(
    stage: Stage, tmp_path: Path, mode: str, keep_open: bool
) -> None:
    """While rows are delivered: others read what was there, each row comes once, none is a dead letter."""
    given = config(tmp_path, mode, keep_open=keep_open)
    stage.publish([order(number) for number in range(20)])
    runner = stage.runner(DuckDbConnector(), given)
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        with no_room(ROOM_BYTES):
            stage.publish([order(number, amount=-1.0) for number in range(10, ROWS)])
            wait_until(lambda: runner.counters.retries >= 3, "tried again and again")
            error = runner.status().error
            assert isinstance(error, TargetUnavailable)
            assert "Could not write" in error.message
        wait_until(lambda: stage.is_delivered(runner), "delivered when there is room")
    with duckdb.connect(str(tmp_path / "target.duckdb"), read_only=True) as connection:
        held = connection.execute("SELECT id, amount FROM target ORDER BY id, amount DESC").fetchall()
    late = [(number, -1.0) for number in range(10, ROWS)]
    early = [(number, float(number)) for number in range(20 if mode == "append" else 10)]
    assert held == sorted([*early, *late], key=lambda row: (row[0], -row[1]))
    assert not stage.records(given.dead_letter_topic)


def test_a_file_that_has_no_room_to_begin_with(stage: Stage, tmp_path: Path) -> None:
    """The disk is full before the file is made."""
    stage.publish([order(1)])
    runner = stage.runner(DuckDbConnector(), config(tmp_path, "append", keep_open=False))
    with no_room(1_000), stage.running(runner):
        wait_until(lambda: runner.counters.retries >= 2, "tried again")
        assert isinstance(runner.status().error, TargetUnavailable)
    runner = stage.deliver(DuckDbConnector(), config(tmp_path, "append", keep_open=False))
    with duckdb.connect(str(tmp_path / "target.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT id FROM target").fetchall() == [(1,)]
