"""How far a restore is, as `headrace status` and `headrace run` say it: in bounded lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli import run_progress
from headrace.cli.restore_text import percent, restore_text
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, write_status

LATER_MS = 2**53


def status(instance: str = "host-0", **changes: object) -> ComponentStatus:
    values: dict[str, object] = {
        "kind": ComponentKind.PIPELINE,
        "name": "totals",
        "instance": instance,
        "environment": "dev",
        "state": ComponentState.RESTORING,
        "started_at_ms": 0,
        "written_at_ms": LATER_MS,
    }
    return ComponentStatus.model_validate(values | changes)


def test_the_share_is_over_all_that_restore() -> None:
    """Instances that restore are summed, others do not count; nothing is said when none restores."""
    first = status(restore_records_done=300, restore_records=2_000)
    second = status("host-1", restore_records_done=1_200, restore_records=3_000)
    assert restore_text([first, second, status("host-2")]) == "1,500 of 5,000 records restored (30 %)"
    assert restore_text([status()]) == ""


@pytest.mark.parametrize(
    ("done", "records", "share"), [(0, 0, 100), (0, 9, 0), (8, 9, 88), (999, 1_000, 99), (7, 7, 100)]
)
def test_percent_is_100_only_at_the_end(done: int, records: int, share: int) -> None:
    """A restore that is nearly done is not done."""
    assert percent(done, records) == share


def test_a_long_restore_is_told_at_each_tenth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand reports of one restore give eleven lines; what is restored is told first, and counts afterwards."""
    told: dict[tuple[str, str], tuple[object, ...]] = {}
    for done in range(1_001):
        write_status(tmp_path, status(restore_records_done=done, restore_records=1_000))
        run_progress.tell_news(tmp_path, "dev", 0, told)
    write_status(tmp_path, status(state=ComponentState.RUNNING, records_in=5))
    run_progress.tell_news(tmp_path, "dev", 0, told)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[0] == "pipeline totals restoring: 0 of 1,000 records restored (0 %)"
    assert lines[4] == "pipeline totals restoring: 400 of 1,000 records restored (40 %)"
    assert lines[-1].startswith("pipeline totals running: 5 in")
