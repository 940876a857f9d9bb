"""What a worker tells and answers by HTTP while its components run.

Owns the putting together of health, metrics and tables. A worker that serves nothing does not load it, nor aiohttp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from prometheus_client import CollectorRegistry

from headrace.engine.metrics import EngineMetrics
from headrace.workspace.control import ControlTopic
from headrace.workspace.environment import Environment
from headrace.workspace.health import Health
from headrace.workspace.http_server import serving
from headrace.workspace.load import Workspace
from headrace.workspace.runtime import Component, Report
from headrace.workspace.status import ComponentStatus
from headrace.workspace.table_owners import address_of
from headrace.workspace.tables import open_tables
from headrace.workspace.tables_http import TablesHttp


@runtime_checkable
class Measured(Protocol):
    """A component with metrics of its own."""

    @property
    def registry(self) -> CollectorRegistry: ...


@contextmanager
def answering(
    port: int,
    workspace: Workspace,
    environment: Environment,
    instance: str,
    control: ControlTopic,
    components: Sequence[Component],
    metrics: EngineMetrics,
) -> Iterator[Report]:
    """Serve at `port` beside the block, and give what is to be told of every status. Raises `HttpUnavailable`."""
    http = workspace.file.config.http
    health = Health(components, metrics, lag_seconds_max=http.ready_lag_seconds)
    # Components of a kind may share one: a metric is told once, with a sample for each of them.
    for registry in dict.fromkeys(each.registry for each in components if isinstance(each, Measured)):
        health.registry.register(registry)
    tables = open_tables(workspace, environment, instance, control, components)

    def watch(status: ComponentStatus) -> None:
        health.note(status)
        tables.owners.note(status)

    served_tables = TablesHttp(tables, health.registry) if http.tables else None
    with (
        serving(health, http.host, port, served_tables) as served,
        tables.owners.advertised(address_of(http, served)),
    ):
        yield watch
