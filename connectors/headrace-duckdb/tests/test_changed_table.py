"""A table that somebody changes under the running egress: found before a row is written, then followed or told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.egress.config import EgressConfig
from headrace.egress.errors import DriftRefused
from headrace.egress.runner import EgressRunner
from headrace.testing.sink_harness import TOPIC, Stage, order, order_contract, wait_until
from headrace_duckdb import DuckDbConnector


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


def runner_of(stage: Stage, folder: Path, mode: str = "upsert") -> EgressRunner:
    values = {
        "name": "out",
        "topic": TOPIC,
        "connector": "duckdb",
        "mode": mode,
        "options": {"path": folder / "target.duckdb", "table": "target"},
        "batch": {"rows_max": 50, "age_max_ms": 20},
        "retry": {"first_ms": 1, "max_ms": 20},
    }
    return stage.runner(DuckDbConnector(), EgressConfig.model_validate(values))


def execute(folder: Path, *statements: str) -> list[tuple[Any, ...]]:
    """By somebody else, between two flushes."""
    with duckdb.connect(str(folder / "target.duckdb")) as connection:
        for statement in statements:
            found: list[tuple[Any, ...]] = connection.execute(statement).fetchall()
    return found


def deliver_around(stage: Stage, folder: Path, mode: str, *statements: str) -> EgressRunner:
    """Row 1, then what somebody does, then row 2."""
    runner = runner_of(stage, folder, mode)
    stage.publish([order(1, amount=1.5)])
    with stage.running(runner) as thread:
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        execute(folder, *statements)
        stage.publish([order(2, amount=2.5)])
        wait_until(lambda: stage.is_delivered(runner) or not thread.is_alive(), "delivered after the change")
    return runner


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_dropped_column_comes_back(stage: Stage, tmp_path: Path, mode: str) -> None:
    """By the policy of drift; what was in it is gone with it."""
    runner = deliver_around(stage, tmp_path, mode, "ALTER TABLE target DROP COLUMN amount")
    assert runner.counters.retries == 1
    assert execute(tmp_path, "SELECT id, amount FROM target ORDER BY id") == [(1, None), (2, 2.5)]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_column_of_another_type_is_widened(stage: Stage, tmp_path: Path, mode: str) -> None:
    """DuckDB would round 2.5 to fit a whole number, and say nothing."""
    deliver_around(stage, tmp_path, mode, "ALTER TABLE target ALTER amount TYPE INTEGER")
    assert execute(tmp_path, "SELECT typeof(amount), amount FROM target ORDER BY id") == [
        ("DOUBLE", 2.0),
        ("DOUBLE", 2.5),
    ]


def test_a_column_of_a_type_that_does_not_widen_stops(stage: Stage, tmp_path: Path) -> None:
    """DuckDB would write numbers as text."""
    with pytest.raises(DriftRefused, match="column 'amount' is string"):
        deliver_around(stage, tmp_path, "upsert", "ALTER TABLE target ALTER amount TYPE TEXT")
    assert execute(tmp_path, "SELECT count(*) FROM target") == [(1,)]


def test_a_column_of_somebody_else_is_left_alone(stage: Stage, tmp_path: Path) -> None:
    """Added meanwhile: null in new rows."""
    deliver_around(stage, tmp_path, "upsert", "ALTER TABLE target ADD COLUMN theirs INTEGER DEFAULT 7")
    assert execute(tmp_path, "SELECT id, theirs FROM target ORDER BY id")[0] == (1, 7)


def test_a_dropped_table_is_made_again_and_filled_from_the_beginning(stage: Stage, tmp_path: Path) -> None:
    """Its positions are no more than it."""
    deliver_around(stage, tmp_path, "append", "DROP TABLE target")
    assert execute(tmp_path, "SELECT id FROM target ORDER BY id") == [(1,), (2,)]


def test_a_table_of_other_columns_in_its_place_stops_with_the_column(stage: Stage, tmp_path: Path) -> None:
    """Dropped and made anew by somebody else; nothing goes into it."""
    with pytest.raises(DriftRefused, match="'id' is string"):
        deliver_around(stage, tmp_path, "append", "DROP TABLE target", "CREATE TABLE target (id TEXT, customer TEXT)")
    assert execute(tmp_path, "SELECT count(*) FROM target") == [(0,)]


def test_a_constraint_that_is_added_refuses_rows_alone(stage: Stage, tmp_path: Path) -> None:
    """It is known once the egress opens the table again: after the first flush that it fails."""
    runner = runner_of(stage, tmp_path, "append")
    stage.publish([order(1)])
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        execute(tmp_path, "CREATE UNIQUE INDEX one ON target (id)")
        stage.publish([order(1, amount=9.0), order(2)])
        wait_until(lambda: stage.is_delivered(runner), "delivered around it")
    assert execute(tmp_path, "SELECT id, amount FROM target ORDER BY id") == [(1, 1.0), (2, 2.0)]
    assert len(stage.records("out.dlq")) == 1
