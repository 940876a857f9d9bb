"""Faults of the machine that workers run on: its disk, its memory, its clock.

Owns them as `Fault`s of scenes, and damage to the copies of state below `.headrace/state`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.engine.harness import wait_until
from tests.faults.child_machine import CLOCK_FILE
from tests.faults.scene import Fault, Scene
from tests.faults.workload import WORKERS_ENVIRONMENT

DEATH_TIMEOUT_S = 20.0
POINT_TIMEOUT_S = 60.0
JUMPS_S = (-3_600.0, 86_400.0 * 400, -1_788e6, 3_600.0)
"""An hour behind, more than a year ahead, to the spring of 1970, an hour ahead: so the last jump, to what is right, is
one back, and the clock stands behind everything that was noted before."""
JUMP_LASTS_S = 1.5
MEMORY_SHORT_S = 1.0
KILLS_IN_A_ROW = 4
KILLS_APART_S = 0.7


def state_folder(scene: Scene) -> Path:
    """Where a scene's workers keep copies of their state."""
    return scene.root / ".headrace" / "state" / WORKERS_ENVIRONMENT


def state_files(scene: Scene) -> list[Path]:
    """Of all partitions, by name."""
    return sorted(state_folder(scene).rglob("*.state"))


@contextlib.contextmanager
def all_dead(scene: Scene) -> Iterator[None]:
    """kill -9 of all workers; their supervisors see it, and start others, only afterwards."""
    for fleet in scene.fleets:
        fleet.signal(signal.SIGSTOP)
    try:
        pids = scene.workers
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(_is_alive, pids)), "all workers are dead", DEATH_TIMEOUT_S)
        yield
    finally:
        for fleet in scene.fleets:
            fleet.signal(signal.SIGCONT)


def _is_alive(pid: int) -> bool:
    """Not even a zombie's last threads hold files any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


Damage = Callable[[Path, random.Random], None]


def damaged(damage: Damage) -> Callable[[Scene, random.Random], None]:
    """All workers die, and every copy of their state is damaged before others start."""

    def apply(scene: Scene, generator: random.Random) -> None:
        wait_until(lambda: bool(state_files(scene)), "copies of state", POINT_TIMEOUT_S)
        with all_dead(scene):
            for path in state_files(scene):
                damage(path, generator)

    return apply


def truncate(path: Path, generator: random.Random) -> None:
    """To any length, nothing included."""
    os.truncate(path, generator.randrange(path.stat().st_size or 1))


def flip_byte(path: Path, generator: random.Random) -> None:
    """One bit of one byte, anywhere."""
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def delete(path: Path, _: random.Random) -> None:
    """One copy; others may stay."""
    path.unlink()


def delete_all(scene: Scene, _: random.Random) -> None:
    """A fresh disk."""
    with all_dead(scene):
        shutil.rmtree(state_folder(scene), ignore_errors=True)


def kill_in_restore(scene: Scene, _: random.Random) -> None:
    """A fresh disk, and kill -9 of who reads state from changelogs; twice, so that a successor dies too."""
    points = [scene.arm("kill_in_restore") for _ in range(2)]
    delete_all(scene, random.Random())
    for point in points:
        point.wait(POINT_TIMEOUT_S)


def jump_clocks(scene: Scene, _: random.Random) -> None:
    """The clock of all workers jumps ahead and back, far and further, and is right again at the end."""
    for offset_s in (*JUMPS_S, 0.0):
        _set_clock(scene, offset_s)
        time.sleep(JUMP_LASTS_S)


def _set_clock(scene: Scene, offset_s: float) -> None:
    beside = scene.points / "clock.new"
    beside.write_text(str(offset_s))
    beside.rename(scene.points / CLOCK_FILE)


def out_of_memory(scene: Scene, _: random.Random) -> None:
    """In the middle of a batch a worker gets no more memory: a call of its own fails, or the process ends."""
    scene.arm("out_of_memory", seconds=MEMORY_SHORT_S).wait(POINT_TIMEOUT_S)


def kill_again_and_again(scene: Scene, _: random.Random) -> None:
    """What the kernel does when memory is short: SIGKILL, and again soon after its supervisor has started another."""
    for _ in range(KILLS_IN_A_ROW):
        wait_until(lambda: bool(scene.workers), "a worker", POINT_TIMEOUT_S)
        for pid in scene.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(KILLS_APART_S)


MACHINE_FAULTS = (
    Fault("local state truncated", damaged(truncate)),
    Fault("local state with a flipped byte", damaged(flip_byte)),
    Fault("local state deleted", delete_all),
    Fault("local state deleted, file by file", damaged(delete)),
    Fault("kill -9 in a restore", kill_in_restore),
    Fault("clocks jump", jump_clocks),
    Fault("out of memory", out_of_memory),
    Fault("out of memory, killed again and again", kill_again_and_again),
)
