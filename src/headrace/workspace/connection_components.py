"""Ingress and egress of a workspace as components of a process.

Loaded where there is one of them: a process that runs pipelines alone starts without connectors and their kinds of
columns.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from headrace.egress.config import EgressConfig
from headrace.egress.replay_input import REPLAYS_FROM
from headrace.egress.sdk import load_connector
from headrace.egress.status import EgressCounters, EgressStatus
from headrace.egress.tasks import EgressTasks
from headrace.errors import HeadraceError
from headrace.ingress.cdc.config import CdcConfig
from headrace.ingress.cdc.worker import CdcWorker
from headrace.ingress.gateway.config import GatewayConfig
from headrace.log.port import Fenced
from headrace.workspace.connection_reports import reporting, work_status
from headrace.workspace.control import open_control
from headrace.workspace.environment import Environment
from headrace.workspace.load import IngressConfig, Workspace
from headrace.workspace.plan_connectors import open_ingress
from headrace.workspace.resnapshot import orders_of
from headrace.workspace.runtime import Component, Report
from headrace.workspace.status import ComponentKind, ComponentStatus, SourceLogStatus, TopicLag

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def connection_components(workspace: Workspace, environment: Environment, instance: str) -> list[Component]:
    """Every ingress and egress of the workspace."""
    delivering = Delivering()
    return [
        *(_ingress(config, workspace, environment, instance) for config in workspace.ingress),
        *(EgressComponent(config, workspace, environment, instance, delivering) for config in workspace.egress),
    ]


def _ingress(config: IngressConfig, workspace: Workspace, environment: Environment, instance: str) -> Component:
    if isinstance(config, GatewayConfig):
        # With the gateway's own modules, which no other ingress needs.
        from headrace.workspace.gateway_component import GatewayComponent

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
            reporting(lambda previous: self._status(cdc, previous), report),
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
        status = cdc.status()
        counters, log = status.counters, status.source_log
        records = counters.changes + counters.snapshot_rows
        return work_status(
            self,
            self.environment.name,
            previous,
            state=status.state,
            records_in=records,
            error=status.error,
            records_out=records,
            dead_letters=counters.dead_letters,
            source_log=None if log is None else SourceLogStatus(**asdict(log)),
            snapshots=cdc.snapshot_progress(),
        )


class Delivering:
    """The egress that run in this process, for their metrics."""

    def __init__(self) -> None:
        self.running: dict[str, EgressTasks] = {}

    @cached_property
    def registry(self) -> CollectorRegistry:
        """Of the metrics of all of them; loaded for who serves them."""
        from prometheus_client import CollectorRegistry

        from headrace.egress.metrics import EgressMetrics

        registry = CollectorRegistry()
        # A copy: an egress may start meanwhile, on its own thread.
        registry.register(EgressMetrics(lambda: [each.status() for each in list(self.running.values())]))
        return registry


@dataclass(slots=True)
class EgressComponent:
    """One egress in this process, while no other process of this machine runs it.

    It runs once because many targets are files, which one process writes at a time; a second member of the group would
    hold partitions that it cannot deliver. Where the target takes several writers, `tasks` of its file has them here.
    """

    config: EgressConfig
    workspace: Workspace
    environment: Environment
    instance: str
    delivering: Delivering = field(default_factory=Delivering)
    kind: ComponentKind = field(default=ComponentKind.EGRESS, init=False)
    runs_once: bool = field(default=True, init=False)
    pauses_inside: bool = field(default=True, init=False)
    _paused: threading.Event = field(default_factory=threading.Event, init=False)
    _tasks: EgressTasks | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return self.config.name

    def run(self, stop: threading.Event, report: Report) -> None:
        tasks = EgressTasks(
            self.config,
            lambda: load_connector(self.config.connector, where=self.config.place("connector")),
            self.workspace.topics[self.config.topic],
            self.environment.log,
            self.environment.registry,
            self.workspace.name,
            paused=self._paused,
        )
        self.delivering.running[self.name] = self._tasks = tasks
        with reporting(lambda previous: self._status(tasks.status(), previous), report):
            tasks.run(stop)

    @property
    def registry(self) -> CollectorRegistry:
        """Of the metrics of every egress of the process."""
        return self.delivering.registry

    def look_for_replays(self) -> None:
        # Tasks that start after this look by themselves.
        if self._tasks is not None:
            self._tasks.look_for_replays()

    def set_paused(self, paused: bool) -> None:
        if paused:
            self._paused.set()
        else:
            self._paused.clear()

    def _status(self, status: EgressStatus, previous: ComponentStatus | None) -> ComponentStatus:
        counters = status.counters
        return work_status(
            self,
            self.environment.name,
            previous,
            state=status.state,
            records_in=counters.records,
            error=status.error,
            records_out=counters.rows_written + counters.rows_deleted,
            dead_letters=sum(counters.dead_letters.values()),
            dropped={name: count for name, count in _left_out(counters).items() if count},
            tasks=tuple(f"0_{each}" for each in sorted(status.positions) if each < REPLAYS_FROM),
            lag={} if status.lag_records is None else {status.topic: TopicLag(records=status.lag_records)},
        )


def _left_out(counters: EgressCounters) -> dict[str, int]:
    """Rows that the file says to leave out."""
    return {"filtered": counters.rows_filtered, "truncate_skipped": counters.truncates_skipped}
