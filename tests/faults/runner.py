"""Faults mixed at random under load, for as long as one likes.

Owns the order of faults and the report of a run.

- The order is a fact of the seed: round after round, every fault once, shuffled. How far a run comes is a matter of
  time.
- Each fault has a generator of its own, made of the seed and its place, so what it draws moves no other.
- Now and then everything comes to rest and is compared, so that a difference is found near its cause.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.brokers import own_broker
from tests.faults.catalogue import FAULTS
from tests.faults.scene import Fault, Scene, open_scene
from tests.faults.workers import SHORT_TIMES_VARIABLES

WORKERS = 2
COMPARE_EVERY = 6
"""Faults between two verdicts."""
SETTLE_TIMEOUT_S = 180.0
QUIET_SHARE = 0.3
"""Of faults that follow each other at once, while the one before is not healed."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A fault that was applied."""

    number: int
    at: str
    """UTC, ISO 8601."""
    second: float
    """Since the run began."""
    name: str


@dataclass(slots=True)
class Report:
    """What a run did, and how it ended."""

    seed: int
    minutes: float
    faults: list[Applied] = field(default_factory=list)
    verdicts: int = 0
    """Times that everything was compared."""
    orders: int = 0
    """Orders that the broker had acknowledged."""
    difference: str | None = None
    """None: no difference."""
    folder: str | None = None
    """Logs and files of a run that failed."""


def order(seed: int, faults: Sequence[Fault] = FAULTS) -> Iterator[tuple[Fault, random.Random]]:
    """Faults without end, each with its generator."""
    generator, number = random.Random(seed), 0
    while True:
        for fault in generator.sample(faults, len(faults)):
            yield fault, random.Random(f"{seed} {number}")
            number += 1


def run(
    seed: int, minutes: float, *, faults: Sequence[Fault] = FAULTS, tell: Callable[[Applied], None] = lambda _: None
) -> Report:
    """Apply faults until `minutes` are over; then everything must come right. The report says whether it did."""
    report = Report(seed, minutes)
    root = Path(tempfile.mkdtemp(prefix="headrace-faults-"))
    with contextlib.ExitStack() as stack:
        scene = stack.enter_context(_scene(root, seed))
        try:
            _mix(scene, report, faults, tell)
            scene.finish(SETTLE_TIMEOUT_S)
            report.verdicts += 1
        # Whatever it is, the report tells it.
        except Exception as error:  # noqa: BLE001
            report.difference = f"{type(error).__name__}: {error}"
            report.folder = str(root)
        report.orders = scene.load.orders_sent
    if report.difference is None:
        shutil.rmtree(root, ignore_errors=True)
    return report


@contextlib.contextmanager
def _scene(root: Path, seed: int) -> Iterator[Scene]:
    with (
        own_broker(root / "kafka") as broker,
        open_scene(
            root / "scene",
            broker.bootstrap,
            worker_bootstrap=broker.proxy.address,
            workers=WORKERS,
            seed=seed,
            variables=SHORT_TIMES_VARIABLES,
            resources=broker.resources,
        ) as scene,
    ):
        yield scene


def _mix(scene: Scene, report: Report, faults: Sequence[Fault], tell: Callable[[Applied], None]) -> None:
    began_s = time.monotonic()
    end_s = began_s + report.minutes * 60
    pauses = random.Random(f"pauses {report.seed}")
    for number, (fault, generator) in enumerate(order(report.seed, faults), start=1):
        if time.monotonic() >= end_s:
            return
        second = round(time.monotonic() - began_s, 1)
        applied = Applied(number, datetime.now(UTC).isoformat(timespec="milliseconds"), second, fault.name)
        report.faults.append(applied)
        tell(applied)
        fault.apply(scene, generator)
        pause_s = 0.0 if pauses.random() < QUIET_SHARE else pauses.uniform(0.5, 1.5) * fault.least_s
        time.sleep(max(0.0, min(pause_s, end_s - time.monotonic())))
        if number % COMPARE_EVERY == 0:
            scene.settle(SETTLE_TIMEOUT_S)
            report.verdicts += 1
