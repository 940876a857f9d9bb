"""What a publisher works with: a log, a registry and contracts.

Owns the protocol, and the one place where this room reaches a workspace: by name, when a service gives nothing else.

- This room never imports the workspace room; `ENVIRONMENT_ENTRY` is looked up when a publisher opens.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.log.port import Log

ENVIRONMENT_ENTRY = "headrace.workspace.environment:open_environment"
"""`open_environment(path: Path | None) -> Environment`."""


class Environment(Protocol):
    """An opened environment of a workspace."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Log: ...

    @property
    def registry(self) -> Registry: ...

    @property
    def contracts(self) -> Mapping[str, Contract]:
        """By topic."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class GivenEnvironment:
    """Parts that the caller opened and will close."""

    log: Log
    registry: Registry
    contracts: Mapping[str, Contract]
    name: str = "given"

    def close(self) -> None:
        """Leaves the parts to their owner."""


def open_environment(workspace: Path | str | None = None) -> Environment:
    """The environment of the workspace at `workspace`, or of the current folder."""
    module_name, _, function_name = ENVIRONMENT_ENTRY.partition(":")
    function = getattr(importlib.import_module(module_name), function_name)
    entry = cast(Callable[[Path | None], Environment], function)
    return entry(None if workspace is None else Path(workspace))
