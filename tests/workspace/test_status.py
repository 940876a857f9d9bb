"""Status files: written whole, read with the age that tells a dead process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.workspace.errors import StatusInvalid
from headrace.workspace.status import (
    STALE_AFTER_MS,
    ComponentKind,
    ComponentState,
    ComponentStatus,
    read_statuses,
    status_path,
    write_status,
)


def status(**changes: object) -> ComponentStatus:
    values: dict[str, object] = {
        "kind": ComponentKind.PIPELINE,
        "name": "totals",
        "instance": "host-0",
        "environment": "dev",
        "state": ComponentState.RUNNING,
        "started_at_ms": 1_000,
        "written_at_ms": 2_000,
        "records_per_second": 5.0,
    }
    return ComponentStatus.model_validate(values | changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every value comes back, the newer write replaces the older, and nothing else is left in the folder."""
    write_status(tmp_path, status(records_in=1))
    newer = status(records_in=7, dropped={"late": 2}, tasks=["0_0", "0_1"], stream_time_ms=99)
    write_status(tmp_path, newer)
    write_status(tmp_path, status(kind=ComponentKind.EGRESS))
    assert read_statuses(tmp_path, now_ms=2_500) == [status(kind=ComponentKind.EGRESS), newer]
    assert {path.suffix for path in (tmp_path / ".headrace" / "status").iterdir()} == {".json"}


def test_silent_process_is_lost(tmp_path: Path) -> None:
    """A file that is not renewed reads `lost` and has no rate; one that says how it ended keeps its word."""
    write_status(tmp_path, status())
    write_status(tmp_path, status(name="ended", state=ComponentState.STOPPED))
    fresh = {found.name: found.state for found in read_statuses(tmp_path, now_ms=2_000 + STALE_AFTER_MS)}
    assert fresh == {"ended": "stopped", "totals": "running"}
    stale = {found.name: found for found in read_statuses(tmp_path, now_ms=2_001 + STALE_AFTER_MS)}
    assert (stale["ended"].state, stale["totals"].state) == ("stopped", "lost")
    assert stale["totals"].records_per_second == 0


def test_foreign_file_is_named(tmp_path: Path) -> None:
    """A file that headrace did not write is an error that names it."""
    path = status_path(tmp_path, ComponentKind.PIPELINE, "totals", "host-0")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(StatusInvalid, match="totals"):
        read_statuses(tmp_path)


def test_threads_of_one_process_write_the_same_file(tmp_path: Path) -> None:
    """A worker and the thread that watches it: whoever is last, the file is whole at every moment."""

    def write(name: str) -> None:
        for count in range(200):
            write_status(tmp_path, status(error=name * (count % 50)))

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(write, name) for name in ("a", "long ")]
        while not all(each.done() for each in done):
            read_statuses(tmp_path)
        for each in done:
            each.result()
    assert [path.suffix for path in status_path(tmp_path, ComponentKind.PIPELINE, "", "").parent.iterdir()] == [".json"]
