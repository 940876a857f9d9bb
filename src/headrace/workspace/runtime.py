"""Everything of a workspace that runs in one process.

Owns the threads: one per pipeline, ingress and egress, one that passes orders on, and one stop event for all.

- Components know nothing of each other: one that fails leaves the others running.
- An error that time may heal starts the component again after a growing wait, for as long as it takes. So does an
  unexpected one, up to `FAILURES_MAX` times in a row. An error that a person must mend leaves it `failed`, until
  somebody says anew what is wanted of it.
- A component that must run once on a machine waits as `standby` until its lock is free.
- What is wanted of a component (`headrace.workspace.control`) holds from its first moment: none starts before that
  is known.
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
from headrace.workspace.control import Desired, DesiredState
from headrace.workspace.slots import try_lock
from headrace.workspace.status import WRITE_INTERVAL_S, ComponentKind, ComponentState, ComponentStatus, write_status

FAILURES_MAX = 8
"""Unexpected errors in a row; with the waits below about two minutes."""
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A component that ran so long before it failed starts with the first wait again."""
LOCK_INTERVAL_S = 0.5
FIRST_WORD_INTERVAL_S = 0.01
"""Between two looks whether it is known by now what is wanted: all work waits for that."""
ORDERS_INTERVAL_S = 0.1
"""How late an order is passed on, once this process has read it."""

_log = structlog.get_logger(__name__)

Report = Callable[[ComponentStatus], None]
Wanted = Callable[[ComponentKind, str], Desired | None]
"""What is wanted of a component; None while nobody knows yet. Must not block."""


class Component(Protocol):
    """Something that runs until told to stop."""

    @property
    def kind(self) -> ComponentKind: ...

    @property
    def name(self) -> str: ...

    @property
    def runs_once(self) -> bool:
        """Whether only one process of a machine may run it."""

    @property
    def pauses_inside(self) -> bool:
        """Whether it stands still by itself when it is told to; else a pause ends `run`."""

    def set_paused(self, paused: bool) -> None:
        """Stand still, or go on. Called from another thread, before and during `run`, again and again."""

    def run(self, stop: threading.Event, report: Report) -> None:
        """Work until `stop` is set; `report` takes a status about every second. Called again after an error."""


@dataclass(slots=True)
class _Running:
    component: Component
    thread: threading.Thread | None = None
    leave: threading.Event = field(default_factory=threading.Event)
    """Ends the present `run` of the component."""
    error: BaseException | None = None
    """Why it failed for good."""
    is_over: bool = False
    """Nothing is left to do, unless somebody says otherwise."""

    @property
    def key(self) -> tuple[ComponentKind, str]:
        return self.component.kind, self.component.name


def _always_running(kind: ComponentKind, name: str) -> Desired:
    return Desired()


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
    wanted: Wanted = _always_running
    backoff_first_s: float = BACKOFF_FIRST_S
    _running: list[_Running] = field(default_factory=list, init=False)

    def run(self) -> list[BaseException]:
        """Run all components; returns why some failed for good."""
        self._running = [_Running(component) for component in self.components]
        for each in self._running:
            name = f"{each.component.kind.value}-{each.component.name}"
            each.thread = threading.Thread(target=self._keep_named, args=(each,), name=name)
            each.thread.start()
        done = threading.Event()
        orders = threading.Thread(target=self._pass_orders_on, args=(done,), name="orders")
        orders.start()
        for each in self._running:
            assert each.thread is not None
            each.thread.join()
        done.set()
        orders.join()
        return [each.error for each in self._running if each.error is not None]

    @property
    def _all_over(self) -> bool:
        return all(each.is_over for each in self._running)

    def _pass_orders_on(self, done: threading.Event) -> None:
        while not done.is_set():
            for each in self._running:
                self._order(each)
            (done if self.stop.is_set() else self.stop).wait(ORDERS_INTERVAL_S)

    def _order(self, running: _Running) -> None:
        """Tell a component at work what is wanted of it."""
        if self.stop.is_set():
            running.leave.set()
            return
        desired = self.wanted(*running.key)
        if desired is None:
            return
        running.component.set_paused(desired.state is DesiredState.PAUSED)
        if _resting_state(running.component, desired) is not None:
            running.leave.set()

    def _keep_named(self, running: _Running) -> None:
        # Whoever logs anything on this thread says for whom.
        with structlog.contextvars.bound_contextvars(**{running.component.kind.value: running.component.name}):
            self._keep_running(running)

    def _keep_running(self, running: _Running) -> None:
        failures = 0
        while self._may_run(running):
            started_s = time.monotonic()
            try:
                self._run_once(running)
                if not running.leave.is_set():
                    break
            except BaseException as error:  # noqa: BLE001 - told below. Polars' panics are no `Exception`.
                failures = 1 if time.monotonic() - started_s > HEALTHY_AFTER_S else failures + 1
                if self._tries_again(running, error, failures):
                    continue
                running.error = error
                if not self._ordered_anew(running):
                    return
                running.error, failures = None, 0
        running.is_over = True

    def _may_run(self, running: _Running) -> bool:
        """Wait until the component is wanted to work; False when the process stops."""
        said: tuple[ComponentState, float] | None = None
        while not self.stop.is_set():
            running.leave.clear()
            resting, why = self._rests(running)
            if resting is None:
                # `_order` may have set `leave` for what was wanted a moment ago; what is wanted now does not.
                return not self.stop.is_set()
            now_s = time.monotonic()
            if said is None or said[0] is not resting or now_s - said[1] >= WRITE_INTERVAL_S:
                said = (resting, now_s)
                self._say(running.component, resting, why)
            self.stop.wait(FIRST_WORD_INTERVAL_S if why is not None else ORDERS_INTERVAL_S)
        return False

    def _rests(self, running: _Running) -> tuple[ComponentState | None, str | None]:
        desired = self.wanted(*running.key)
        if desired is None:
            return ComponentState.WAITING, "the log does not tell yet what is wanted of it"
        running.component.set_paused(desired.state is DesiredState.PAUSED)
        return _resting_state(running.component, desired), None

    def _ordered_anew(self, running: _Running) -> bool:
        """Wait until somebody says anew what is wanted of a failed component; False when there is no use in it."""
        running.is_over = True
        before = self.wanted(*running.key)
        while not self.stop.is_set() and not self._all_over:
            desired = self.wanted(*running.key)
            if before is not None and desired is not None and desired.since_ms != before.since_ms:
                running.is_over = False
                return True
            before = before or desired
            self.stop.wait(ORDERS_INTERVAL_S)
        return False

    def _run_once(self, running: _Running) -> None:
        component = running.component
        if not component.runs_once:
            component.run(running.leave, self._write)
            return
        lock = None
        while not running.leave.is_set() and lock is None:
            lock = try_lock(self.root, f"{component.kind.value}.{component.name}")
            if lock is None:
                self._say(component, ComponentState.STANDBY)
                running.leave.wait(LOCK_INTERVAL_S)
        if lock is not None:
            with lock:
                component.run(running.leave, self._write)

    def _tries_again(self, running: _Running, error: BaseException, failures: int) -> bool:
        """Say what happened and wait; False when there is no use in another try."""
        component = running.component
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
        running.leave.wait(wait_s)
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


def _resting_state(component: Component, desired: Desired) -> ComponentState | None:
    """The state of a component that is not to run at all; None when it is."""
    if desired.state is DesiredState.STOPPED:
        return ComponentState.STOPPED
    if desired.state is DesiredState.PAUSED and not component.pauses_inside:
        return ComponentState.PAUSED
    return None
