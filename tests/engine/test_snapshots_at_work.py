"""A worker whose disk is new goes on from a snapshot, and does without when there is something wrong with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.snapshots import open_snapshots
from headrace.log.embedded import EmbeddedLog
from tests.engine.test_state_copies import DAMAGES, Life
from tests.engine.test_state_restore import calls, only_changelog

ROUNDS_MAX = 20


class Copied(Life):
    """A pipeline whose files are copied as often as can be."""

    def __init__(self, log: EmbeddedLog, folder: Path) -> None:
        super().__init__(log, folder)
        self.copies = folder.with_name("copies")

    def run(self, rows: int = 20, **_: Any) -> Any:
        self.at_work.publish("calls", calls(self.published, rows))
        self.published += rows
        self.runs += 1
        return self.at_work.run_until_caught_up(
            instance=f"run{self.runs}",
            state_folder=self.folder,
            environment="test",
            snapshots=open_snapshots(str(self.copies), {}, self.folder),
            snapshot_interval_s=0.0,
        ).status()

    def run_until_copied(self) -> None:
        """Both partitions have a copy. (One that still waits when a worker ends is dropped.)"""
        for _ in range(ROUNDS_MAX):
            self.run()
            if len({path.parent for path in self.stored()}) == 2:
                return
        raise AssertionError("nothing is copied")

    def stored(self) -> list[Path]:
        return sorted(self.copies.rglob("*.state"))

    def lose_disk(self) -> None:
        shutil.rmtree(self.folder)


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Copied]:
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        yield Copied(log, tmp_path / "state")


def test_a_new_disk_is_filled_from_snapshots(life: Copied) -> None:
    """Of the log only what came after them is read; the files are then as good as any."""
    life.run_until_copied()
    everything = len(life.at_work.records(only_changelog(life.at_work)))
    life.lose_disk()
    status = life.run()
    assert status.state_bytes_loaded > 0
    assert status.records_restored < everything
    life.check()
    assert life.run().records_restored == 0
    life.check()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_left_out(life: Copied, damage: str) -> None:
    """The changelog gives the state, whatever was done to the copies."""
    life.run_until_copied()
    for path in life.stored():
        DAMAGES[damage](path)
    life.lose_disk()
    assert life.run().records_restored > 0
    life.check()


def test_a_store_that_is_full_stops_nobody(life: Copied) -> None:
    """Failures are counted; the work goes on, and so does the copy on disk."""
    life.run()
    shutil.rmtree(life.copies)
    life.copies.mkdir()
    (life.copies / "test").write_text("in the way of the environment's folder")
    found = [life.run().snapshots for _ in range(3)]
    life.check()
    assert any(each.get("failed") for each in found), found
