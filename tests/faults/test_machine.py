"""The machine of the workers fails: copies of state are damaged, clocks jump, disk and memory run out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.brokers import OwnBroker, own_broker
from tests.faults.catalogue import put_up_with
from tests.faults.child_machine import FILE_BYTES_VARIABLE
from tests.faults.machine import state_files
from tests.faults.scene import Scene, open_scene

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.xdist_group("faults-machine"),
    pytest.mark.timeout(400),
]

FILE_BYTES = 6 * 1024
"""Room for a status, and not for a second's state."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    with own_broker(tmp_path_factory.mktemp("broker") / "kafka") as broker:
        yield broker


@pytest.fixture(scope="module")
def shared_scene(broker: OwnBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two workers, for all faults that leave them well."""
    with open_scene(
        tmp_path_factory.mktemp("machine") / "scene", broker.bootstrap, resources=broker.resources
    ) as scene:
        yield scene
        if scene.is_well:
            scene.finish()


def told(scene: Scene, event: str) -> int:
    """How often workers have logged it."""
    return scene.log_tail(100_000_000).count(f'"event": "{event}"')


def restored(scene: Scene) -> int:
    """Records that the workers of now have read from changelogs and tables."""
    pids = scene.workers
    return sum(each.records_restored for each in scene.statuses() if each.pid in pids)


def test_local_state_truncated(scene: Scene) -> None:
    """What was cut in the middle of a commit is read from the log again; a file without its head is thrown away."""
    before = told(scene, "state_copy_cut") + told(scene, "state_copy_discarded")
    put_up_with(scene, "local state truncated")
    assert told(scene, "state_copy_cut") + told(scene, "state_copy_discarded") > before


def test_local_state_with_a_flipped_byte(scene: Scene) -> None:
    """Found by a checksum wherever it is; the copy is thrown away and the state comes from the log."""
    files, before = len(state_files(scene)), told(scene, "state_copy_discarded")
    put_up_with(scene, "local state with a flipped byte")
    assert told(scene, "state_copy_discarded") - before >= files / 2, "most of the damage was not found"


def test_local_state_deleted(scene: Scene) -> None:
    """A fresh disk: everything comes from the log, and is on the disk again afterwards."""
    put_up_with(scene, "local state deleted")
    assert restored(scene), "nothing was read from the log"
    assert state_files(scene)


def test_a_crash_during_restore(scene: Scene) -> None:
    """Twice in a row, with a fresh disk: half a restore is worth nothing, and hurts nothing."""
    put_up_with(scene, "kill -9 in a restore")


def test_clocks_jump(scene: Scene) -> None:
    """An hour ahead and back, a year, to before 1970: no row is lost, none is late, no window closes early."""
    put_up_with(scene, "clocks jump")


def test_memory_runs_out(scene: Scene) -> None:
    """A batch that gets no memory commits nothing; whoever does it next gets it right."""
    put_up_with(scene, "out of memory", "out of memory")


def test_killed_for_want_of_memory_again_and_again(scene: Scene) -> None:
    """Each time soon after the supervisor has started it again."""
    put_up_with(scene, "out of memory, killed again and again")


def test_disk_full(broker: OwnBroker, tmp_path: Path) -> None:
    """No file may grow: copies of state are given up with a warning, and the work goes on exactly, restarts too."""
    with open_scene(
        tmp_path / "scene",
        broker.bootstrap,
        variables={FILE_BYTES_VARIABLE: str(FILE_BYTES)},
    ) as scene:
        scene.settle()
        put_up_with(scene, "kill -9 of all workers")
        assert "it cannot be written: File too large" in scene.log_tail(100_000_000)
        assert all(path.stat().st_size <= FILE_BYTES for path in state_files(scene))
        scene.finish()
