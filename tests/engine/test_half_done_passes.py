"""An error in the middle of a pass reaches whoever runs the worker as it is, and leaves nothing half done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.engine.subtopology import SubtopologyRunner
from headrace.log.embedded import EmbeddedLog
from tests.engine.harness import Harness
from tests.engine.test_worker import by_country, harness, orders


def test_memory_that_ran_out_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table rows of the open transaction are in memory when it happens: giving the partitions up takes them back
    first, and the error is not hidden by one of ours. The next worker does all of it."""
    run = harness(EmbeddedLog(tmp_path / "log.db"), by_country, partitions=2)
    run.publish("customers", [{"customer": f"c{n}", "country": f"k{n % 3}"} for n in range(20)])
    run.run_until_caught_up()
    run.publish("customers", [{"customer": f"c{n}", "country": f"k{n % 5}"} for n in range(20)])
    run.publish("orders", orders(50))
    whole = SubtopologyRunner.run

    def and_then_no_memory(runner: SubtopologyRunner, rows: Any, *arguments: Any, **options: Any) -> None:
        whole(runner, rows, *arguments, **options)
        if "customers" in rows:
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(SubtopologyRunner, "run", and_then_no_memory)
        with pytest.raises(MemoryError):
            run_until_it_fails(run)
    run.run_until_caught_up()
    totals = {row["country"]: row["orders"] for row in run.rows("by_country")}
    assert sum(totals.values()) == 50


def run_until_it_fails(run: Harness) -> None:
    with run.running() as worker:
        run.wait(worker, lambda: False)
