"""Every fault that the seeded runner mixes, in one list.

Owns the list; names are unique.
"""

from __future__ import annotations

from tests.faults.machine import MACHINE_FAULTS
from tests.faults.scene import Fault
from tests.faults.workers import WORKER_FAULTS
from tests.faults.world import WORLD_FAULTS

FAULTS: tuple[Fault, ...] = (*WORKER_FAULTS, *WORLD_FAULTS, *MACHINE_FAULTS)


def named(name: str) -> Fault:
    """The fault of this name."""
    (found,) = (fault for fault in FAULTS if fault.name == name)
    return found
