"""kill -9 in the middle of the flights job, on a real broker with real processes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from headrace.demo import oracle
from headrace.demo.airports import PublishingAirports
from headrace.demo.database import SqliteFleet
from headrace.demo.replay import records_in, replay
from headrace.demo.source_files import read_flights
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.plan import make_plan
from tests.engine.harness import wait_until
from tests.faults.fleet import committed_rows, fleet, worker_processes

FLIGHTS = 60_000
"""Enough for the workers to be in the middle of something at each kill."""
KILLS = 3
OUTPUT = "carrier.delays.hourly"
ROOT = Path(__file__).parents[2]


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_kills_leave_no_trace_in_topic_and_table(
    kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers killed mid-way and restarted: derived topic and DuckDB table equal the batch answer, no row twice."""
    import shutil

    monkeypatch.setenv("HEADRACE_KAFKA", kafka_bootstrap)
    root = tmp_path / "flights"
    shutil.copytree(ROOT / "examples" / "flights", root, ignore=shutil.ignore_patterns("__pycache__"))
    name = f"flights{os.getpid()}"
    (root / "headrace.toml").write_text((root / "headrace.toml").read_text().replace('"flights"', f'"{name}"'))
    register = SqliteFleet(root / "fleet.db")
    register.create()
    flights = read_flights(FLIGHTS)
    expected = oracle.answer(flights)
    workspace = load(root)
    generator = random.Random(5)
    with connect(workspace.file, workspace.contracts, "kafka") as environment:
        apply_plan(make_plan(workspace, environment), workspace, environment)
        with fleet(root) as supervisor, PublishingAirports(environment) as airports:
            killed: Counter[int] = Counter()
            due = [FLIGHTS * share // 5 for share in range(1, KILLS + 1)]
            published = 0

            def advance(count: int) -> None:
                nonlocal published
                published += count
                if due and published >= due[0]:
                    due.pop(0)
                    victims = worker_processes(supervisor.pid)
                    victim = generator.choice(victims)
                    os.kill(victim, signal.SIGKILL)
                    killed[victim] += 1
                time.sleep(0.2)

            replay(
                environment,
                register,
                airports,
                flights,
                alive=lambda: None,
                progress=advance,
                chunk_rows=2_000,
            )
            assert sum(killed.values()) == KILLS

            def finished() -> bool:
                return records_in(environment.log, OUTPUT) >= expected.height and target_rows(root) >= expected.height

            wait_until(finished, "the last row", timeout_s=240)
            quiet_since, before = time.monotonic(), records_in(environment.log, OUTPUT)
            while time.monotonic() - quiet_since < 6:
                now = records_in(environment.log, OUTPUT)
                if now != before:
                    quiet_since, before = time.monotonic(), now
                time.sleep(0.2)
        rows = committed_rows(environment, OUTPUT, workspace.topics[OUTPUT])
    topic = oracle.compare(oracle.comparable(rows), expected)
    table = oracle.compare(oracle.read_target(root / "delays.duckdb"), expected)
    assert topic.rows_equal, topic
    assert table.rows_equal, table


def target_rows(root: Path) -> int:
    """Rows in the DuckDB table; -1 while it cannot be read."""
    try:
        return oracle.read_target(root / "delays.duckdb").height
    except duckdb.Error:
        return -1
