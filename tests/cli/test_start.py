"""What starts before the first row: no process loads what it does not use, and none does another's work.

Held by the modules that a process has loaded when it ends, which no load on the machine changes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.worker import WorkerWords

from .conftest import Call, process

TELLS = """
import atexit, gc, json, pathlib, sys
told = pathlib.Path(sys.argv.pop(1))
def tell():
    told.write_text(json.dumps({"modules": sorted(sys.modules), "frozen": gc.get_freeze_count(), "gc": gc.isenabled()}))
atexit.register(tell)
from headrace.cli.main import main
main()
"""
"""Runs the command line, and writes down at the end what the process has loaded."""

HOT = (
    "import headrace as hr\n"
    "from headrace import col\n\n\n"
    '@hr.pipeline(owner="me")\n'
    "def hot():\n"
    '    """Warm rooms."""\n'
    '    rows = hr.stream("readings").filter(col("celsius") > 22)\n'
    '    return rows.select("sensor", "celsius", "measured_at").to("readings.hot")\n'
)
ROWS_ALONE = {"map_async", "map_rows", "row_check", "rows", "turns"}
"""Modules of operators that every worker has."""


@pytest.fixture
def hot(tmp_path: Path, call: Call) -> Path:
    """A workspace with data and one pipeline, which filters and projects; applied."""
    folder = tmp_path / "sensors"
    assert call("init", str(folder)).code == 0
    (folder / "pipelines" / "rooms.py").unlink()
    (folder / "pipelines" / "hot.py").write_text(HOT)
    assert process("apply", "--yes", cwd=folder).code == 0
    return folder


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def start(told: Path, *words: str, cwd: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "HEADRACE_ENV"}
    command = [sys.executable, "-c", TELLS, str(told), *words]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.PIPE)


def rows_out(folder: Path) -> int:
    """Of the pipeline, by its status."""
    files = list((folder / ".headrace" / "status").glob("pipeline.hot.*.json"))
    return sum(json.loads(file.read_text())["records_out"] for file in files)


def loaded(told: Path, *packages: str) -> list[str]:
    """Modules of these packages that a process had."""
    modules = json.loads(told.read_text())["modules"]
    return [name for name in modules if any(name == each or name.startswith(f"{each}.") for each in packages)]


def test_a_worker_loads_what_its_pipeline_needs(hot: Path, tmp_path: Path) -> None:
    """One that filters and projects, on the embedded log, serving nothing: no other operator, no connector, no HTTP, no
    client of Kafka, no other format, nothing for people. What was imported is never looked through for garbage."""
    told = tmp_path / "told.json"
    worker = start(told, "worker", "--workspace", str(hot), cwd=hot)
    until(lambda: rows_out(hot) > 0)
    worker.terminate()
    assert worker.wait(60) == 0
    for_others = ("aiohttp", "confluent_kafka", "duckdb", "fastavro", "pandas", "rich", "typer", "urllib3")
    assert loaded(told, *for_others) == []
    assert (
        loaded(told, "headrace.egress", "headrace.ingress", "headrace.contracts.debezium", "headrace.log.kafka") == []
    )
    assert loaded(told, "headrace.workspace.serving", "headrace.workspace.health", "headrace.workspace.tables") == []
    operators = "headrace.engine.operators"
    assert {each.removeprefix(f"{operators}.") for each in loaded(told, operators)} - {operators} <= ROWS_ALONE
    assert loaded(told, "headrace.engine.aggregates") == []
    about: dict[str, Any] = json.loads(told.read_text())
    assert about["gc"]
    assert about["frozen"] > 10_000


def test_a_supervisor_loads_no_workspace(hot: Path, tmp_path: Path) -> None:
    """It starts its worker without columns, clients and contracts, and never has them, whatever it is asked to do."""
    told = tmp_path / "told.json"
    supervisor = start(told, "run", cwd=hot)
    until(lambda: rows_out(hot) > 0)
    (status,) = (hot / ".headrace" / "status").glob("pipeline.hot.*.json")
    before = json.loads(status.read_text())["pid"]
    supervisor.send_signal(signal.SIGHUP)
    until(lambda: json.loads(status.read_text())["pid"] != before)
    supervisor.terminate()
    assert supervisor.wait(60) == 0
    assert loaded(told, "numpy", "polars", "pyarrow", "confluent_kafka", "aiohttp", "rich", "yaml") == []
    assert loaded(told, "headrace.contracts", "headrace.flow", "headrace.engine", "headrace.log") == []


@pytest.mark.parametrize(
    "words",
    [
        WorkerWords(),
        WorkerWords(["hot", "-odd"], Path("/a folder"), "dev", 0, 5),
        WorkerWords(workspace=Path("-w"), environment="--env"),
    ],
)
def test_a_worker_understands_its_supervisor(words: WorkerWords) -> None:
    """What one writes the other reads, whatever the names are; what it never writes is wrong
    usage."""
    command = words.command()
    assert command[:4] == [sys.executable, "-m", "headrace.cli", "worker"]
    assert replace(WorkerWords.parsed(command[4:]), names=list(words.names)) == replace(words, names=list(words.names))
    with pytest.raises(SystemExit) as ended:
        WorkerWords.parsed(["--nothing"])
    assert ended.value.code == 2
