"""Whether the compiled parts (`headrace-native`) are here, and which of them are used.

Owns the choice, made once when the process starts.

- Without the package everything works, with equal results and slower.
- `HEADRACE_NATIVE=0` leaves the package out, so that both ways can be compared on one machine.
- A package of another version is left out, and a line in the log says so: it may mean something else by its names.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import structlog

API_VERSION = 2
SWITCH = "HEADRACE_NATIVE"
OFF = "0"

logger = structlog.get_logger("headrace.native")


def _find() -> ModuleType | None:
    if os.environ.get(SWITCH) == OFF:
        return None
    try:
        module = importlib.import_module("headrace_native")
    except ModuleNotFoundError:
        return None
    if module.API_VERSION != API_VERSION:
        logger.warning("native_version_differs", wanted=API_VERSION, found=module.API_VERSION)
        return None
    return module


native: ModuleType | None = _find()
"""The compiled module, or None."""
