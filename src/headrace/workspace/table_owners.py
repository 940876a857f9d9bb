"""Which process of the fleet holds which partitions, and where it is reached.

Owns what this process says of itself on the control topic, and the reading of what the others say.

- What is said is a hint: whoever is asked looks at what it holds before it answers.
- Of two processes that claim a partition, the one that said so last is taken: the other one died, or moves.
- A process says something new when its tasks change, and nothing otherwise; when it ends it says nothing any more.
- A log that does not answer costs nothing but that the others know later.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from headrace.engine.held_tables import HeldTable
from headrace.log.port import LogError
from headrace.workspace.config import HttpConfig
from headrace.workspace.control import ControlTopic
from headrace.workspace.errors import WorkspaceError
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus

AGAIN_AFTER_S = 1.0
"""Between two attempts to say something to a log that does not answer."""
_EVERY_ADDRESS = ("", "0.0.0.0", "::")
_OVER = (ComponentState.STOPPED, ComponentState.FAILED, ComponentState.RETRYING)

_log = structlog.get_logger(__name__)

Tasks = Mapping[str, tuple[str, ...]]
"""By pipeline: `<subtopology>_<partition>`."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds rows."""

    instance: str
    address: str
    """`http://host:port`; empty where it serves no HTTP."""


def address_of(http: HttpConfig, port: int) -> str:
    """Where other processes reach this one; empty where it serves nothing."""
    if not port or not http.tables:
        return ""
    host = http.advertise or (socket.gethostname() if http.host in _EVERY_ADDRESS else http.host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class TableOwners:
    """What is known of the fleet, by one process of it. Thread-safe."""

    def __init__(self, control: ControlTopic, instance: str) -> None:
        self.instance = instance
        self._control = control
        self._address = ""
        self._tasks: dict[str, tuple[str, ...]] = {}
        self._news = threading.Event()
        self._over = threading.Event()

    # This process

    def note(self, status: ComponentStatus) -> None:
        """This is how a component of this process is now. Does not block."""
        if status.kind is not ComponentKind.PIPELINE:
            return
        tasks = () if status.state in _OVER else status.tasks
        if self._tasks.get(status.name, ()) != tasks:
            self._tasks[status.name] = tasks
            self._news.set()

    @contextmanager
    def advertised(self, address: str) -> Iterator[None]:
        """Tell the others of this process while the block runs; nothing of one that cannot be reached."""
        if not address:
            yield
            return
        self._address = address
        self._news.set()
        thread = threading.Thread(target=self._tell, name="advertise", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._news.set()
            thread.join()

    def _tell(self) -> None:
        told = False
        while True:
            self._news.wait()
            self._news.clear()
            is_over = self._over.is_set()
            try:
                if not is_over:
                    self._control.advertise(self.instance, self._about())
                    told = True
                elif told:
                    self._control.withdraw(self.instance)
            except (LogError, WorkspaceError) as error:
                _log.warning("tables_not_advertised", instance=self.instance, error=str(error))
                self._news.set()
                self._over.wait(AGAIN_AFTER_S)
            if is_over:
                return

    def _about(self) -> dict[str, Any]:
        return {
            "address": self._address,
            "pid": os.getpid(),
            "tasks": {name: list(tasks) for name, tasks in sorted(self._tasks.items())},
            "said_at_ms": time.time_ns() // 1_000_000,
        }

    # The fleet

    def of(self, table: HeldTable) -> Mapping[int, Owner]:
        """By partition: who holds the rows of a table. Partitions that nobody holds are missing."""
        found: dict[int, Owner] = {}
        for owner, tasks in self._everybody():
            for task in tasks.get(table.pipeline, ()):
                subtopology, _, partition = task.partition("_")
                if int(subtopology) == table.holder.subtopology:
                    found[int(partition)] = owner
        return found

    def anybody(self, table: HeldTable) -> Owner | None:
        """Somebody who runs the table's pipeline: this process rather than another."""
        running = [owner for owner, tasks in self._everybody() if table.pipeline in tasks]
        return running[-1] if running else None

    def _everybody(self) -> list[tuple[Owner, Tasks]]:
        """Who said what last comes last; this process knows of itself without being told."""
        entries = sorted(self._control.instances().items(), key=lambda each: _said_at_ms(each[1]))
        others = [(_owner(name, about), _tasks(about)) for name, about in entries if name != self.instance]
        return [*others, (Owner(self.instance, self._address), dict(self._tasks))]


def _said_at_ms(about: Mapping[str, Any]) -> int:
    said = about.get("said_at_ms")
    return said if isinstance(said, int) else 0


def _owner(instance: str, about: Mapping[str, Any]) -> Owner:
    return Owner(instance, str(about.get("address", "")))


def _tasks(about: Mapping[str, Any]) -> Tasks:
    tasks = about.get("tasks", {})
    return {str(name): tuple(map(str, each)) for name, each in tasks.items()} if isinstance(tasks, dict) else {}
