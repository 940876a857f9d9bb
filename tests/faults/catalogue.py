"""Every fault that the seeded runner mixes, in one list.

Owns the list; names are unique.
"""

from __future__ import annotations

import random

from tests.faults.machine import MACHINE_FAULTS
from tests.faults.scene import Fault, Scene
from tests.faults.workers import WORKER_FAULTS
from tests.faults.world import WORLD_FAULTS

FAULTS: tuple[Fault, ...] = (*WORKER_FAULTS, *WORLD_FAULTS, *MACHINE_FAULTS)


def named(name: str) -> Fault:
    """The fault of this name."""
    (found,) = (fault for fault in FAULTS if fault.name == name)
    return found


def put_up_with(scene: Scene, *names: str, seed: int = 1) -> None:
    """One fault after the other under load, with a verdict behind each."""
    generator = random.Random(seed)
    for name in names:
        named(name).apply(scene, generator)
        scene.settle()
