"""Testing pipelines, connectors and logs.

The names for pipelines are here, each loaded when it is first used, so that a connector's conformance tests load no
engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.testing.contracts import contract as contract
    from headrace.testing.driver import Driver as Driver
    from headrace.testing.driver_records import DeadLetter as DeadLetter
    from headrace.testing.driver_records import DriverMisused as DriverMisused
    from headrace.testing.driver_records import OutputRecord as OutputRecord

_HOMES = {
    "DeadLetter": "headrace.testing.driver_records",
    "Driver": "headrace.testing.driver",
    "DriverMisused": "headrace.testing.driver_records",
    "OutputRecord": "headrace.testing.driver_records",
    "contract": "headrace.testing.contracts",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
