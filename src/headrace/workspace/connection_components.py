"""Ingress and egress of a workspace as components of a process.

Owns the way from a source's or a runner's report to a `ComponentStatus`. Loaded where there is one of them: a process
that runs pipelines alone starts without connectors and their kinds of columns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from headrace.egress.config import EgressConfig
from headrace.egress.replay_input import REPLAYS_FROM
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import load_connector
from headrace.egress.status import EgressStatus
from headrace.errors import HeadraceError
from headrace.ingress.cdc.config import CdcConfig
from headrace.ingress.cdc.worker import CdcWorker
from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.worker import Gateway
from headrace.log.port import Fenced
from headrace.workspace.control import open_control
from headrace.workspace.environment import Environment
from headrace.workspace.load import IngressConfig, Workspace
from headrace.workspace.plan_connectors import open_gateway, open_ingress
from headrace.workspace.resnapshot import orders_of
from headrace.workspace.runtime import Component, Report
from headrace.workspace.status import (
    WRITE_INTERVAL_S,
    ComponentKind,
    ComponentState,
    ComponentStatus,
    SourceLogStatus,
    TopicLag,
)


def connection_components(workspace: Workspace, environment: Environment, instance: str) -> list[Component]:
    """Every ingress and egress of the workspace."""
    return [
        *(_ingress(config, workspace, environment, instance) for config in workspace.ingress),
        *(EgressComponent(config, workspace, environment, instance) for config in workspace.egress),
    ]


def _ingress(
    config: IngressConfig, workspace: Workspace, environment: Environment, instance: str
) -> IngressComponent | GatewayComponent:
    if isinstance(config, GatewayConfig):
        return GatewayComponent(config, workspace, environment, instance)
    return IngressComponent(config, workspace, environment, instance)


class TakenOver(HeadraceError):
    """Another process runs what this one ran."""

    code = "workspace.taken_over"


@dataclass(slots=True)
class IngressComponent:
    """One ingress in this process, while no other process of this machine runs it.

    A pause ends its run: it is no member of anything, and goes on from the position that it committed.
    """

    config: CdcConfig
    workspace: Workspace
    environment: Environment
    instance: str
    kind: ComponentKind = field(default=ComponentKind.INGRESS, init=False)
    runs_once: bool = field(default=True, init=False)
    pauses_inside: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        return self.config.name

    def set_paused(self, paused: bool) -> None:
        """It does not run while it is paused."""

    def run(self, stop: threading.Event, report: Report) -> None:
        cdc = open_ingress(self.config, self.workspace, self.environment)
        with (
            _reporting(lambda previous: self._status(cdc, previous), report),
            open_control(self.environment) as control,
        ):
            # What was ordered before counts too: the position knows what was followed.
            control.watching(lambda: cdc.order_snapshots(orders_of(control.state(), self.name)))
            try:
                cdc.run(stop)
            except Fenced as error:
                # To start again would fence the other one in turn, and so on for ever.
                raise TakenOver(
                    f"ingress {self.name!r} runs in another process, on another machine",
                    cure="run it in one place, and restart that one",
                ) from error

    def _status(self, cdc: CdcWorker[Any], previous: ComponentStatus | None) -> ComponentStatus:
        status, now_ms = cdc.status(), time.time_ns() // 1_000_000
        counters, log = status.counters, status.source_log
        records = counters.changes + counters.snapshot_rows
        return ComponentStatus(
            kind=self.kind,
            name=self.name,
            instance=self.instance,
            environment=self.environment.name,
            state=_WORK_STATES[status.state],
            started_at_ms=previous.started_at_ms if previous else now_ms,
            written_at_ms=now_ms,
            records_in=records,
            records_out=records,
            records_per_second=_rate(previous, records, now_ms),
            dead_letters=counters.dead_letters,
            error=str(status.error) if status.error else None,
            source_log=None if log is None else SourceLogStatus(**asdict(log)),
            snapshots=cdc.snapshot_progress(),
        )


@dataclass(slots=True)
class GatewayComponent:
    """One gateway in this process, beside those of others. While it is paused nobody listens."""

    config: GatewayConfig
    workspace: Workspace
    environment: Environment
    instance: str
    kind: ComponentKind = field(default=ComponentKind.INGRESS, init=False)
    runs_once: bool = field(default=False, init=False)
    pauses_inside: bool = field(default=False, init=False)
    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = open_gateway(self.config, self.workspace, self.environment, self.instance)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def registry(self) -> CollectorRegistry:
        """Of its metrics."""
        return self.gateway.metrics.registry

    def set_paused(self, paused: bool) -> None:
        """It does not run while it is paused."""

    def run(self, stop: threading.Event, report: Report) -> None:
        with _reporting(self._status, report):
            self.gateway.run(stop)

    def _status(self, previous: ComponentStatus | None) -> ComponentStatus:
        status, now_ms = self.gateway.status(), time.time_ns() // 1_000_000
        return ComponentStatus(
            kind=self.kind,
            name=self.name,
            instance=self.instance,
            environment=self.environment.name,
            state=_WORK_STATES[status.state],
            started_at_ms=previous.started_at_ms if previous else now_ms,
            written_at_ms=now_ms,
            records_in=status.records_in,
            records_out=status.records_out,
            records_per_second=_rate(previous, status.records_in, now_ms),
            error=str(status.error) if status.error else None,
        )


@dataclass(slots=True)
class EgressComponent:
    """One egress in this process, while no other process of this machine runs it.

    It runs once because many targets are files, which one process writes at a time; a second member of the group would
    hold partitions that it cannot deliver.
    """

    config: EgressConfig
    workspace: Workspace
    environment: Environment
    instance: str
    kind: ComponentKind = field(default=ComponentKind.EGRESS, init=False)
    runs_once: bool = field(default=True, init=False)
    pauses_inside: bool = field(default=True, init=False)
    _paused: threading.Event = field(default_factory=threading.Event, init=False)
    _replay_news: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def name(self) -> str:
        return self.config.name

    def run(self, stop: threading.Event, report: Report) -> None:
        runner = EgressRunner(
            self.config,
            load_connector(self.config.connector, where=self.config.place("connector")),
            self.workspace.topics[self.config.topic],
            self.environment.log,
            self.environment.registry,
            self.workspace.name,
            paused=self._paused,
            replay_news=self._replay_news,
        )
        with _reporting(lambda previous: self._status(runner.status(), previous), report):
            runner.run(stop)

    def look_for_replays(self) -> None:
        self._replay_news.set()

    def set_paused(self, paused: bool) -> None:
        if paused:
            self._paused.set()
        else:
            self._paused.clear()

    def _status(self, status: EgressStatus, previous: ComponentStatus | None) -> ComponentStatus:
        counters, now_ms = status.counters, time.time_ns() // 1_000_000
        return ComponentStatus(
            kind=self.kind,
            name=self.name,
            instance=self.instance,
            environment=self.environment.name,
            state=_WORK_STATES[status.state],
            started_at_ms=previous.started_at_ms if previous else now_ms,
            written_at_ms=now_ms,
            records_in=counters.records,
            records_out=counters.rows_written + counters.rows_deleted,
            records_per_second=_rate(previous, counters.records, now_ms),
            dead_letters=sum(counters.dead_letters.values()),
            dropped={"filtered": counters.rows_filtered} if counters.rows_filtered else {},
            tasks=tuple(f"0_{each}" for each in sorted(status.positions) if each < REPLAYS_FROM),
            lag={} if status.lag_records is None else {status.topic: TopicLag(records=status.lag_records)},
            error=str(status.error) if status.error else None,
        )


_WORK_STATES = {
    "created": ComponentState.STARTING,
    "running": ComponentState.RUNNING,
    "paused": ComponentState.PAUSED,
    "retrying": ComponentState.RETRYING,
    "stopped": ComponentState.STOPPED,
    "failed": ComponentState.FAILED,
}


@contextmanager
def _reporting(status: Callable[[ComponentStatus | None], ComponentStatus], report: Report) -> Iterator[None]:
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
