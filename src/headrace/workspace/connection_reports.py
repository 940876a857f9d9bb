"""From what a source's or a runner's work says about itself to a `ComponentStatus`, about once a second.

Owns the states of work as those of components, the rate, and the thread that tells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from headrace.errors import HeadraceError
from headrace.workspace.runtime import Component, Report
from headrace.workspace.status import WRITE_INTERVAL_S, ComponentState, ComponentStatus

_WORK_STATES = {
    "created": ComponentState.STARTING,
    "running": ComponentState.RUNNING,
    "paused": ComponentState.PAUSED,
    "retrying": ComponentState.RETRYING,
    "stopped": ComponentState.STOPPED,
    "failed": ComponentState.FAILED,
}


class Connection(Component, Protocol):
    """A source or a runner as a component."""

    @property
    def instance(self) -> str:
        """Of the process that it runs in."""


def work_status(
    component: Connection,
    environment: str,
    previous: ComponentStatus | None,
    *,
    state: str,
    records_in: int,
    error: HeadraceError | None,
    **more: Any,
) -> ComponentStatus:
    """How work stands now; `more` are further fields of the status."""
    now_ms = time.time_ns() // 1_000_000
    return ComponentStatus(
        kind=component.kind,
        name=component.name,
        instance=component.instance,
        environment=environment,
        state=_WORK_STATES[state],
        started_at_ms=previous.started_at_ms if previous else now_ms,
        written_at_ms=now_ms,
        records_in=records_in,
        records_per_second=_rate(previous, records_in, now_ms),
        error=str(error) if error else None,
        **more,
    )


@contextmanager
def reporting(status: Callable[[ComponentStatus | None], ComponentStatus], report: Report) -> Iterator[None]:
    """Report about every second beside work that does not report by itself, and how it ended."""
    done = threading.Event()
    last: ComponentStatus | None = None

    def tell() -> None:
        nonlocal last
        while True:
            last = status(last)
            report(last)
            if done.wait(WRITE_INTERVAL_S):
                return

    reporter = threading.Thread(target=tell, name="status")
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    report(status(last).model_copy(update={"state": ComponentState.STOPPED, "records_per_second": 0.0}))


def _rate(previous: ComponentStatus | None, records: int, now_ms: int) -> float:
    if previous is None or now_ms <= previous.written_at_ms:
        return 0.0
    return (records - previous.records_in) * 1000 / (now_ms - previous.written_at_ms)
