"""Everything of a workspace that runs in one process.

Owns the threads: one per pipeline, ingress and egress, and one stop event for all.

- Components know nothing of each other: one that fails leaves the others running.
- An error that time may heal starts the component again after a growing wait, for as long as it takes. So does an
  unexpected one, up to `FAILURES_MAX` times in a row. An error that a person must mend leaves it `failed`.
- A component that must run once on a machine waits as `standby` until its lock is free.
- `run` returns when `stop` is set and all have drained, or when nothing is left to run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from headrace.errors import Fault, HeadraceError
from headrace.workspace.slots import try_lock
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, write_status

FAILURES_MAX = 8
"""Unexpected errors in a row; with the waits below about two minutes."""
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A component that ran so long before it failed starts with the first wait again."""
LOCK_INTERVAL_S = 0.5

_log = structlog.get_logger(__name__)

Report = Callable[[ComponentStatus], None]


class Component(Protocol):
    """Something that runs until told to stop."""

    @property
    def kind(self) -> ComponentKind: ...

    @property
    def name(self) -> str: ...

    @property
    def runs_once(self) -> bool:
        """Whether only one process of a machine may run it."""

    def run(self, stop: threading.Event, report: Report) -> None:
        """Work until `stop` is set; `report` takes a status about every second. Called again after an error."""


@dataclass(slots=True)
class _Running:
    component: Component
    thread: threading.Thread | None = None
    error: BaseException | None = None
    """Why it failed for good."""


@dataclass(slots=True)
class Runtime:
    """The components of one process."""

    root: Path
    environment: str
    instance: str
    components: Sequence[Component]
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Report = lambda status: None
    """Told every status before it is written; must not block."""
    backoff_first_s: float = BACKOFF_FIRST_S

    def run(self) -> list[BaseException]:
        """Run all components; returns why some failed for good."""
        running = [_Running(component) for component in self.components]
        for each in running:
            name = f"{each.component.kind.value}-{each.component.name}"
            each.thread = threading.Thread(target=self._keep_running, args=(each,), name=name)
            each.thread.start()
        for each in running:
            assert each.thread is not None
            each.thread.join()
        return [each.error for each in running if each.error is not None]

    def _keep_running(self, running: _Running) -> None:
        component, failures = running.component, 0
        while not self.stop.is_set():
            started_s = time.monotonic()
            try:
                self._run_once(component)
                return
            except BaseException as error:  # noqa: BLE001 - told below. Polars' panics are no `Exception`.
                failures = 1 if time.monotonic() - started_s > HEALTHY_AFTER_S else failures + 1
                if not self._tries_again(component, error, failures):
                    running.error = error
                    return

    def _run_once(self, component: Component) -> None:
        if not component.runs_once:
            component.run(self.stop, self._write)
            return
        lock = None
        while not self.stop.is_set() and lock is None:
            lock = try_lock(self.root, f"{component.kind.value}.{component.name}")
            if lock is None:
                self._say(component, ComponentState.STANDBY)
                self.stop.wait(LOCK_INTERVAL_S)
        if lock is not None:
            with lock:
                component.run(self.stop, self._write)

    def _tries_again(self, component: Component, error: BaseException, failures: int) -> bool:
        """Say what happened and wait; False when there is no use in another try."""
        about = {"component": component.kind.value, "name": component.name, "error": _text(error)}
        expected = isinstance(error, HeadraceError)
        fault = error.fault if isinstance(error, HeadraceError) else Fault.RETRY
        if fault is Fault.STOP or (not expected and failures >= FAILURES_MAX):
            self._say(component, ComponentState.FAILED, _text(error))
            _log.error("component_failed", **about, exc_info=not expected)
            return False
        wait_s = min(self.backoff_first_s * 2 ** (failures - 1), BACKOFF_MAX_S)
        self._say(component, ComponentState.RETRYING, _text(error))
        _log.warning("component_retries", **about, failures=failures, wait_s=wait_s)
        self.stop.wait(wait_s)
        return True

    def _say(self, component: Component, state: ComponentState, error: str | None = None) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._write(
            ComponentStatus(
                kind=component.kind,
                name=component.name,
                instance=self.instance,
                environment=self.environment,
                state=state,
                started_at_ms=now_ms,
                error=error,
            )
        )

    def _write(self, status: ComponentStatus) -> None:
        self.watch(status)
        try:
            write_status(self.root, status)
        except OSError as error:
            # A full disk must not stop the work that the status tells of.
            _log.warning("status_not_written", name=status.name, error=str(error))


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"
