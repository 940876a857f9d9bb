"""A gateway of a workspace as a component of a process. Loaded where there is one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.worker import Gateway
from headrace.workspace.connection_reports import reporting, work_status
from headrace.workspace.environment import Environment
from headrace.workspace.load import Workspace
from headrace.workspace.plan_connectors import open_gateway
from headrace.workspace.runtime import Report
from headrace.workspace.status import ComponentKind, ComponentStatus


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
        with reporting(self._status, report):
            self.gateway.run(stop)

    def _status(self, previous: ComponentStatus | None) -> ComponentStatus:
        status = self.gateway.status()
        return work_status(
            self,
            self.environment.name,
            previous,
            state=status.state,
            records_in=status.records_in,
            error=status.error,
            records_out=status.records_out,
        )
