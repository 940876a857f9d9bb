"""News of replays for the components of one process.

Owns the way from an entry of the control topic to the component whose dead letters are replayed.

- News are hints: a component that starts looks by itself, so one that is not there misses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import structlog

from headrace.engine.orders import WorkerBusy
from headrace.workspace.control import ControlTopic
from headrace.workspace.runtime import Component

REPLAY_PREFIX = "replay/"
"""Keys of the control topic about replays, before `<kind>/<name>`."""

_log = structlog.get_logger(__name__)


@runtime_checkable
class TakesReplays(Protocol):
    """A component whose dead letters can be replayed."""

    def look_for_replays(self) -> None:
        """Called from another thread; must not block. Raises `WorkerBusy` when it was not told."""


class ReplayNews:
    """Called after each change of the control topic."""

    def __init__(self, control: ControlTopic, components: Sequence[Component]) -> None:
        self._control = control
        self._components = {f"{each.kind.value}/{each.name}": each for each in components}
        self._told: dict[str, Mapping[str, Any]] = {}

    def __call__(self) -> None:
        for key, news in self._control.state().under(REPLAY_PREFIX).items():
            component = self._components.get(key)
            if isinstance(component, TakesReplays) and self._told.get(key) != news:
                self._told[key] = news
                self._tell(component)

    def _tell(self, component: TakesReplays) -> None:
        try:
            component.look_for_replays()
        except WorkerBusy as error:
            _log.info("replays_not_told", reason=str(error))


def replay_key(kind: str, name: str) -> str:
    """The control topic's key of news for a component."""
    return f"{REPLAY_PREFIX}{kind}/{name}"
