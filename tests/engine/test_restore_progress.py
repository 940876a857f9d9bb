"""How far a restore is: the way to go is known when it begins, and all of it is covered when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.reporter import Reporter
from headrace.engine.settings import RestoreProgress, WorkerStatus
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from tests.engine.backlog_child import encoded, readings
from tests.engine.harness import Harness

RECORDS = 2_000


@hr.pipeline(owner="test")
def highest() -> Any:
    """The highest number of each room."""
    return hr.stream("earlier").group_by("room").agg(highest=hr.max("number")).to("rooms.highest")


def test_a_restart_covers_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run has nothing to restore; the second one tells its way before it reads, and ends at its end."""
    ends: list[RestoreProgress | None] = []
    gained = Reporter.gained

    def look(self: Reporter) -> None:
        ends.append(self.status().restore)
        gained(self)

    monkeypatch.setattr(Reporter, "gained", look)
    contract = readings("earlier")
    compiled = compile_pipeline(highest, {contract.topic: contract})
    run = Harness(EmbeddedLog(tmp_path / "log.db"), MemoryRegistry(), [contract], compiled, partitions=2)
    for first in range(0, RECORDS, RECORDS // 4):
        run.produce(encoded(run, "earlier", first, RECORDS // 4))
        run.run_until_caught_up()
    ends.clear()
    seen: list[WorkerStatus] = []
    with run.running(on_status=seen.append) as running:
        run.wait(running, lambda: running.worker.status().state == "running")
    (end,) = (each for each in ends if each is not None and each.records_to_do)
    assert end.records_done == end.records_to_do > 0
    restoring = [each for each in seen if each.state == "restoring"]
    assert restoring[0].restore == RestoreProgress(0, end.records_to_do)
    assert restoring[0].tasks == ()
    assert seen[-1].restore is None
