"""Restore: how long state of many keys takes to come back, and from where.

Owns the state that is built once, and its ways back: the changelog, the disk, a snapshot, another worker's death.

- Before each way everything is drained, so that what comes back is what was committed.
- Times are those inside the worker: from the moment it has its partitions to the moment it can read on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.recovery import jobs
from bench.recovery.processes import Event, WorkerProcess, until
from bench.recovery.setting import PARTITIONS, Publishing, Setting, Watching
from headrace.engine.local_state import LocalState
from headrace.engine.snapshots import StatePlace, open_snapshots
from headrace.flow.values import StatefulStep

JOB = "totals"
BUILT, KEPT, SNAPSHOTS = "built-disk", "kept-disk", "snapshots"
TRICKLE_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class Restored:
    """One way back."""

    way: str
    keys: int
    seconds: float
    cpu_seconds: float
    keys_per_second: float
    records_read: int
    """From the changelog."""
    loaded_mb: float
    """From the disk, whether it was there or was fetched."""
    state_bytes_per_key: float
    peak_mb: float
    """Beyond what the process held before."""
    held_mb: float
    """The same, when it was done."""


@dataclass(frozen=True, slots=True)
class Failover:
    """From kill -9 to the first committed output of another worker."""

    way: str
    keys: int
    seconds: float
    detection_seconds: float
    """Until the broker gave the partitions away: the group's session timeout."""
    restore_seconds: float
    output_seconds: float
    """From the end of restore to the first committed row of a record published after the kill."""


def build(setting: Setting, keys: int, passes: int) -> float:
    """The state, its changelog and its files; returns the seconds it took."""
    setting.make_topics(JOB)
    setting.publish(jobs.payments(keys, keys * passes))
    return setting.build(JOB, disk=BUILT)


def measure_restore(setting: Setting, way: str) -> Restored:
    """Start a worker that must restore all, and stop it again."""
    options = _disk_of(setting, way)
    with WorkerProcess(setting.order(JOB, f"restore-{way}", **options)) as worker:
        events = worker.wait_restored(PARTITIONS)
    return _summed(way, events)


def _disk_of(setting: Setting, way: str) -> Mapping[str, str]:
    """Where the worker of this way runs."""
    if way == "changelog":
        return {}
    if way == "changelog, copied to disk":
        return {"disk": f"fresh-{time.monotonic_ns()}"}
    if way == "disk":
        return {"disk": BUILT}
    return {"disk": f"fresh-{time.monotonic_ns()}", "snapshots": SNAPSHOTS}


def _summed(way: str, events: list[Event]) -> Restored:
    seconds = sum(event["seconds"] for event in events)
    last = events[-1]
    keys = int(last["keys"])
    return Restored(
        way=way,
        keys=keys,
        seconds=round(seconds, 3),
        cpu_seconds=round(sum(event["cpu_seconds"] for event in events), 3),
        keys_per_second=round(keys / seconds),
        records_read=last["records_read"],
        loaded_mb=round(last["loaded_mb"], 3),
        state_bytes_per_key=round(last["state_mb"] * 1e6 / max(keys, 1), 1),
        peak_mb=round(last["peak_mb"] - events[0]["before_mb"], 1),
        held_mb=round(last["after_mb"] - events[0]["before_mb"], 1),
    )


class _Trickle:
    """A few records a second, each an account of its own."""

    def __init__(self, setting: Setting) -> None:
        # Above those of all measurements before: a late row of theirs is not taken for one of ours.
        self.first = self.number = time.time_ns() // 1_000_000
        self._setting = setting
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Publishing(self._setting) as publishing:
            while not self._stop.wait(TRICKLE_INTERVAL_S):
                publishing.send(jobs.probe(self.number))
                self.number += 1

    def __enter__(self) -> _Trickle:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure_failover(setting: Setting, way: str) -> Failover:
    """Kill the only worker under a trickle of records; another one starts at that moment."""
    first_disk = BUILT if way == "disk" else f"lost-{time.monotonic_ns()}"
    if way == "snapshot":
        first_disk = KEPT
    watching = Watching(setting, JOB)
    with _Trickle(setting) as trickle, WorkerProcess(setting.order(JOB, "dies", disk=first_disk)) as first:
        first.wait_restored(PARTITIONS)
        _wait_for_probe(watching, lambda each: each > trickle.first)
        killed_at, number = first.kill(), trickle.number
        with WorkerProcess(setting.order(JOB, "takes-over", **_disk_of(setting, way))) as second:
            seen_at = _wait_for_probe(watching, lambda each: each > number)
            events = second.wait_restored(PARTITIONS)
            begun_at = second.named("restoring")[0]["at"]
    watching.close()
    restored_at = events[-1]["at"]
    return Failover(
        way=way,
        keys=int(events[-1]["keys"]),
        seconds=round(seen_at - killed_at, 3),
        detection_seconds=round(begun_at - killed_at, 3),
        restore_seconds=round(restored_at - begun_at, 3),
        output_seconds=round(seen_at - restored_at, 3),
    )


def _wait_for_probe(watching: Watching, wanted: Callable[[int], bool]) -> float:
    """When the first row of such a probe came."""
    seen_at = 0.0

    def came() -> bool:
        nonlocal seen_at
        answer = watching.poll(0.02)
        if answer is None:
            return False
        seen_at, frame = answer
        return any(map(wanted, jobs.probes_of(frame)))

    until(came, "output")
    return seen_at


def store_snapshots(setting: Setting, disk: str) -> int:
    """Copy the state files of a disk to the snapshots' folder; their bytes together."""
    plan = jobs.compiled(JOB).plan
    store = open_snapshots(str(setting.folder / SNAPSHOTS), {}, setting.folder)
    local, total = LocalState(setting.folder / disk), 0
    with contextlib.closing(setting.log.admin()) as admin:
        topics = admin.topics(internal=True)
    for step in (each for each in plan.steps if isinstance(each, StatefulStep)):
        for partition in range(PARTITIONS):
            place = StatePlace("bench", plan.name, step.name, partition, topics[step.changelog].topic_id)
            copy = local.open(place, step.fingerprint)
            assert copy is not None, "no worker has it any more"
            store.put(place, copy.path, copy.length_bytes, copy.commit)
            total += copy.length_bytes
            copy.close()
    return total
