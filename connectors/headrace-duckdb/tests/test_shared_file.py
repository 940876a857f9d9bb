"""One DuckDB file, several processes: DuckDB lets one of them write at a time, headrace makes them take turns."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Mode, TargetUnavailable
from headrace.egress.target import Target
from headrace.testing import sink_child
from headrace.testing.sink_harness import TOPIC, WORKSPACE, Stage, order, order_contract, wait_until
from headrace_duckdb import DuckDbConnector, database_file

HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


def make_config(folder: Path, **more: Any) -> EgressConfig:
    values = {
        "name": "out",
        "topic": TOPIC,
        "connector": "duckdb",
        "mode": Mode.APPEND,
        "options": {"path": folder / "target.duckdb", "table": "target"},
        "batch": {"rows_max": 20, "age_max_ms": 20},
        "retry": {"first_ms": 10, "max_ms": 50},
        **more,
    }
    return EgressConfig.model_validate(values)


def ids(path: Path) -> list[int]:
    """All ids in the file, once nobody holds it."""
    found: list[list[tuple[int]]] = []

    def read() -> bool:
        try:
            with duckdb.connect(str(path), read_only=True) as connection:
                found.append(connection.execute("SELECT id FROM target ORDER BY id").fetchall())
        except (duckdb.IOException, duckdb.CatalogException):
            return False
        return True

    wait_until(read, "the file can be read")
    return [row[0] for row in found[0]]


@contextmanager
def member(stage: Stage, config: EgressConfig) -> Iterator[subprocess.Popen[bytes]]:
    """The egress in a process of its own."""
    text = sink_child.arguments(stage.log_path, "headrace_duckdb:DuckDbConnector", config, stage.contract)
    process = subprocess.Popen([sys.executable, "-m", "headrace.testing.sink_child", text])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program that has the file open, until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_committed(stage: Stage, config: EgressConfig) -> bool:
    admin = stage.log.admin()
    try:
        offsets = admin.group_offsets(config.group(WORKSPACE))
    finally:
        admin.close()
    return {place.partition: each.offset for place, each in offsets.items()} == stage.ends()


def test_two_members_of_a_group_write_one_file_in_turn(stage: Stage, tmp_path: Path) -> None:
    """Two processes deliver their partitions into the same table at once; one is killed; every row is there once."""
    config = make_config(tmp_path)
    stage.publish([order(number) for number in range(300)])
    with ExitStack() as processes:
        members = [processes.enter_context(member(stage, config)) for _ in range(2)]
        wait_until(lambda: is_committed(stage, config), "all delivered")
        members[0].kill()
        stage.publish([order(number) for number in range(300, 400)])
        wait_until(lambda: is_committed(stage, config), "the other delivers everything")
    assert ids(tmp_path / "target.duckdb") == list(range(400))


def test_a_file_that_is_held_for_a_moment_is_waited_for(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody looks into the file: the flush waits, nothing fails, nothing is repeated."""
    config = make_config(tmp_path)
    stage.publish([order(1)])
    stage.deliver(DuckDbConnector(), config)
    stage.publish([order(2)])
    runner = stage.runner(DuckDbConnector(), config)
    refused = []
    connect = duckdb.connect

    def counted(*arguments: Any, **named: Any) -> duckdb.DuckDBPyConnection:
        try:
            return connect(*arguments, **named)
        except duckdb.IOException:
            refused.append(arguments)
            raise

    monkeypatch.setattr(duckdb, "connect", counted)
    with holder(tmp_path / "target.duckdb") as other, stage.running(runner):
        wait_until(lambda: len(refused) >= 3, "the file is waited for")
        other.kill()
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert runner.counters.retries == 0
    assert ids(tmp_path / "target.duckdb") == [1, 2]


def test_a_file_that_stays_held_is_tried_again(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that keeps the file: the status says so with file, holder and cure, and all arrives when it ends."""
    monkeypatch.setattr(database_file, "FILE_WAIT_S", 0.05)
    config = make_config(tmp_path)
    stage.publish([order(1)])
    stage.deliver(DuckDbConnector(), config)
    stage.publish([order(2)])
    runner = stage.runner(DuckDbConnector(), config)
    with holder(tmp_path / "target.duckdb") as other, stage.running(runner):
        wait_until(lambda: runner.status().state == "retrying", "retrying")
        error = runner.status().error
        assert isinstance(error, TargetUnavailable)
        assert "target.duckdb" in error.message
        assert str(other.pid) in error.message
        assert error.cure == "close the program that holds it; headrace tries again"
        other.kill()
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert ids(tmp_path / "target.duckdb") == [1, 2]


def test_a_file_system_without_links(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB makes the file there; nothing else is left beside it."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    stage.publish([order(1)])
    folder = tmp_path / "lake"
    stage.deliver(DuckDbConnector(), make_config(folder))
    assert ids(folder / "target.duckdb") == [1]
    assert [each.name for each in folder.iterdir()] == ["target.duckdb"]


def test_egress_of_one_process_take_turns(stage: Stage, tmp_path: Path) -> None:
    """Connectors of one process that open and close the same file all the time: none finds it half gone."""
    targets = [
        stage.runner(DuckDbConnector(), make_config(tmp_path, name=f"out{number}")).target for number in range(4)
    ]
    targets[0].open([0])
    targets[0].close()

    def use(target: Target) -> None:
        for _ in range(15):
            target.open([0])
            target.close()

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(use, each) for each in targets]:
            done.result()
