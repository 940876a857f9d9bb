"""Back-pressure: what waits has a bound, in rows and in bytes, and memory stays below the figure in the docs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine import worker
from headrace.engine.settings import BATCH_RECORDS_MAX, INPUT_ROWS_MAX, WorkerStatus
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from tests.engine.backlog_child import encoded, merged, readings
from tests.engine.harness import Harness, wait_until

ROOT = Path(__file__).parent.parent.parent
BACKLOG_RECORDS = 1_000_000
"""Of each of two topics: twice what may wait."""
RECORDS = 4_000


@hr.pipeline(owner="test")
def some() -> Any:
    """One row in ten thousand."""
    return hr.stream("later").filter(col("number") % 10_000 == 0).to("some")


def harness(folder: Path, pipeline: Any) -> Harness:
    contracts = [readings("earlier"), readings("later")]
    compiled = compile_pipeline(pipeline, {each.topic: each for each in contracts})
    return Harness(EmbeddedLog(folder / "log.db"), MemoryRegistry(), contracts, compiled, partitions=2)


def stated_mb() -> int:
    """The figure in docs/operating.md."""
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    (figure,) = re.findall(r"stays below ([\d,]+) MB", text)
    return int(figure.replace(",", ""))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    """Two million records, half of which must wait for the others: the worker stops reading those, stays below the
    stated memory, and loses nothing."""
    command = [sys.executable, "-m", "tests.engine.backlog_child", str(tmp_path), str(BACKLOG_RECORDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["is_right"]
    assert seen["partitions_paused"] == 2
    assert seen["rows_waiting"] <= INPUT_ROWS_MAX + 2 * BATCH_RECORDS_MAX
    assert seen["peak_mb"] < stated_mb()


def most_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **bounds: int) -> int:
    """The most rows that waited in a small merge of the same kind, under these bounds."""
    for name, bound in bounds.items():
        monkeypatch.setattr(worker, name, bound)
    run = harness(tmp_path, merged)
    for topic, first in (("earlier", 0), ("later", RECORDS)):
        run.produce(encoded(run, topic, first, RECORDS))
    seen: list[int] = []
    on_cycle = worker.PipelineWorker._back_pressure

    def look(self: worker.PipelineWorker, task: Any) -> None:
        seen.append(task.queue.rows_waiting())
        on_cycle(self, task)

    monkeypatch.setattr(worker.PipelineWorker, "_back_pressure", look)
    with run.running(batch_records_max=100) as running:
        run.wait(running, run.caught_up)
    assert [row["number"] for row in run.rows("some")] == [0]
    return max(seen)


def test_rows_that_wait_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number: a batch more than the bound at most."""
    assert 300 < most_waiting(tmp_path, monkeypatch, INPUT_ROWS_MAX=300) <= 300 + 2 * 100


def test_large_rows_that_wait_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their bytes: far fewer than may wait by number."""
    assert most_waiting(tmp_path, monkeypatch, INPUT_BYTES_MAX=20_000) <= 600


def test_a_transaction_has_a_bound_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is kept for dead letters until its commit: much of it is committed before the interval is over."""
    monkeypatch.setattr(worker, "TRANSACTION_BYTES_MAX", 2_000)
    run = harness(tmp_path, some)
    run.produce(encoded(run, "later", 0, RECORDS))
    seen: list[WorkerStatus] = []
    with run.running(on_status=seen.append, batch_records_max=100, commit_interval_ms=600_000):
        wait_until(run.caught_up, "commits without end of the interval")
    assert seen[-1].commits >= 10
