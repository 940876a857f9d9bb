"""Faults of worker processes, their transactions and their groups.

Owns them as `Fault`s of scenes. Each returns when it is over and as many workers are there as before; that the work is
well, says the scene's verdict.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from headrace.workspace.status import read_statuses
from tests.engine.harness import wait_until
from tests.faults import points
from tests.faults.scene import Fault, Fleet, Scene
from tests.faults.workload import WORKERS_ENVIRONMENT

POINT_TIMEOUT_S = 60.0
"""How long a worker may take to reach a point: it may be restoring after the fault before."""
BEYOND_SESSION_S = 2.0
"""Added to the session's length: the broker looks for dead members now and then."""
SESSION_S = 6.0
"""Of our brokers' groups, unless the scene says otherwise (`session_s`)."""
TOGETHER_S = 3.0
JOIN_TIMEOUT_S = 60.0
ROLLING_TIMEOUT_S = 180.0
"""One worker after the other, each when the last one is up."""


def at_point(point: str, **arguments: float) -> Callable[[Scene, random.Random], None]:
    """A fault that a worker does to itself at a point of its work."""

    def apply(scene: Scene, _: random.Random) -> None:
        scene.arm(point, **arguments).wait(POINT_TIMEOUT_S)

    return apply


def beyond_session_s(scene: Scene) -> float:
    """Longer than the group waits for a member."""
    session_s: float = scene.resources.get("session_s", SESSION_S)
    return session_s + BEYOND_SESSION_S


def _resume_later(scene: Scene, pid: int) -> None:
    time.sleep(beyond_session_s(scene))
    os.kill(pid, signal.SIGCONT)


def stop_and_continue_at(point: str) -> Callable[[Scene, random.Random], None]:
    """SIGSTOP in the middle of a transaction until the group has given the partitions to others, then SIGCONT."""

    def apply(scene: Scene, _: random.Random) -> None:
        _resume_later(scene, scene.arm(point).wait(POINT_TIMEOUT_S))

    return apply


def stop_and_continue(scene: Scene, random: random.Random) -> None:
    """SIGSTOP at any moment, beyond the session, then SIGCONT: the partitions are lost, not revoked."""
    pid = _some_worker(scene, random)
    os.kill(pid, signal.SIGSTOP)
    _resume_later(scene, pid)


def _some_worker(scene: Scene, random: random.Random) -> int:
    """Any of those that live; after a kill of all of them the first that comes back."""
    wait_until(lambda: bool(scene.workers), "a worker", JOIN_TIMEOUT_S)
    return random.choice(scene.workers)


def kill_at_random(scene: Scene, random: random.Random) -> None:
    """kill -9 at any moment."""
    os.kill(_some_worker(scene, random), signal.SIGKILL)


def kill_all(scene: Scene, _: random.Random) -> None:
    """kill -9 of all workers at once."""
    for pid in scene.workers:
        os.kill(pid, signal.SIGKILL)


def kill_supervisor(scene: Scene, random: random.Random) -> None:
    """kill -9 of a supervisor: its workers see it and drain by themselves; another one starts."""
    fleet = random.choice(scene.fleets)
    pids = fleet.pids
    fleet.process.kill()
    fleet.process.wait()
    scene.fleets.remove(fleet)
    wait_until(lambda: not set(pids) & set(scene.processes()), "the workers of a dead supervisor drain", JOIN_TIMEOUT_S)
    scene.start(fleet.workers)


def term_in_batch(scene: Scene, _: random.Random) -> None:
    """SIGTERM to one worker in the middle of a batch: it drains and ends with 0; another one takes its place."""
    pid = scene.arm("term_in_batch").wait(POINT_TIMEOUT_S)
    fleet = fleet_of(scene, pid)
    wait_until(lambda: pid not in scene.processes(), "a worker drains", JOIN_TIMEOUT_S)
    fleet.workers -= 1
    if not fleet.workers:
        assert fleet.process.wait(JOIN_TIMEOUT_S) == 0
        scene.fleets.remove(fleet)
    scene.start(1)


def fleet_of(scene: Scene, pid: int) -> Fleet:
    """The fleet that had the worker a moment ago."""
    has_it = [fleet for fleet in scene.fleets if pid in fleet.pids]
    lacks_one = [fleet for fleet in scene.fleets if len(fleet.pids) < fleet.workers]
    assert has_it or lacks_one, f"nobody's worker: {pid}"
    return (has_it or lacks_one)[0]


def rebalance(scene: Scene, _: random.Random) -> None:
    """A worker joins and leaves under load: partitions move while transactions are open."""
    newcomer = scene.start(1)
    assert scene.stop(newcomer) == 0


def scale(scene: Scene, _: random.Random) -> None:
    """To three workers, to one, and back to as many as before."""
    before = scene.fleets[:]
    more = scene.start(max(1, 3 - len(scene.workers)))
    for fleet in before[1:]:
        assert scene.stop(fleet) == 0
    assert scene.stop(more) == 0
    for fleet in before[1:]:
        scene.start(fleet.workers)


def rolling_restart(scene: Scene, random: random.Random) -> None:
    """SIGHUP to a supervisor: its workers are replaced one at a time."""
    wait_until(lambda: bool(scene.workers), "a worker", JOIN_TIMEOUT_S)
    fleet = random.choice(scene.fleets)
    before = set(fleet.pids)
    fleet.signal(signal.SIGHUP)
    wait_until(
        lambda: len(fleet.pids) == fleet.workers and not before & set(fleet.pids),
        "all workers of a fleet are replaced",
        ROLLING_TIMEOUT_S,
    )


def two_of_one_name(scene: Scene, _: random.Random) -> None:
    """A second machine of the same name: its worker has the transactional ids of one of ours."""
    root = twin(scene)
    process = scene.spawn("worker", "--env", WORKERS_ENVIRONMENT, root=root)
    wait_until(lambda: any(each.tasks for each in read_statuses(root)), "the second one works", JOIN_TIMEOUT_S)
    time.sleep(TOGETHER_S)
    process.send_signal(signal.SIGTERM)
    process.wait(JOIN_TIMEOUT_S)


def twin(scene: Scene) -> Path:
    """The workspace once more, as another machine has it: no locks, no status, no state."""
    number = sum(1 for _ in scene.root.parent.glob("twin*"))
    root = scene.root.parent / f"twin{number}"
    root.mkdir()
    shutil.copy(scene.root / "headrace.toml", root)
    for folder in ("contracts", "pipelines"):
        shutil.copytree(scene.root / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


SLOW_BATCH_S = 8.0
POLL_INTERVAL_MS = 6_000
"""`max.poll.interval.ms` of scenes in which a batch is to be too slow."""
SLOW_TRANSACTION_S = 8.0
TRANSACTION_TIMEOUT_MS = 6_000
"""Of scenes in which a transaction is to be held too long."""

SHORT_TIMES = frozenset({"short times"})
"""Needs `SHORT_TIMES_VARIABLES`."""
SHORT_TIMES_VARIABLES = {
    points.POLL_INTERVAL_VARIABLE: str(POLL_INTERVAL_MS),
    points.TRANSACTION_TIMEOUT_VARIABLE: str(TRANSACTION_TIMEOUT_MS),
}

WORKER_FAULTS = (
    Fault("kill -9 in a batch", at_point("kill_in_batch")),
    Fault("kill -9 after produce, before offsets", at_point("kill_before_offsets")),
    Fault("kill -9 between offsets and commit", at_point("kill_before_commit")),
    Fault("kill -9 after the commit was sent", at_point("kill_after_commit")),
    Fault("commit answered late", at_point("late_reply")),
    Fault("kill -9 at any moment", kill_at_random),
    Fault("kill -9 of all workers", kill_all),
    Fault("kill -9 of the supervisor", kill_supervisor),
    Fault("SIGTERM in a batch", term_in_batch),
    Fault("SIGSTOP past the session, before offsets", stop_and_continue_at("stop_before_offsets")),
    Fault("SIGSTOP past the session, before the commit", stop_and_continue_at("stop_before_commit")),
    Fault("SIGSTOP past the session, at any moment", stop_and_continue),
    Fault("batch longer than max.poll.interval.ms", at_point("slow_batch", seconds=SLOW_BATCH_S), SHORT_TIMES),
    Fault("transaction timeout", at_point("slow_transaction", seconds=SLOW_TRANSACTION_S), SHORT_TIMES),
    Fault("two processes with one transactional id", two_of_one_name),
    Fault("rebalance in a transaction", rebalance),
    Fault("workers 1 to 3 to 1", scale),
    Fault("rolling restart", rolling_restart),
)
