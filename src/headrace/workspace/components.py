"""What a workspace says as components of a process, its pipelines first of all.

Owns the way from what a workspace says to what `Runtime` runs, and from a pipeline's report to a `ComponentStatus`.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from headrace.engine.metrics import EngineMetrics
from headrace.engine.orders import Orders
from headrace.engine.settings import SNAPSHOT_INTERVAL_S, WorkerSettings, WorkerStatus
from headrace.engine.snapshots import open_snapshots
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.engine.worker import PipelineWorker
from headrace.flow.plan import CompiledPipeline
from headrace.workspace.control import ControlTopic
from headrace.workspace.environment import Environment
from headrace.workspace.load import Workspace
from headrace.workspace.place import LOCAL_FOLDER
from headrace.workspace.replay_news import ReplayNews
from headrace.workspace.runtime import Component, Report
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, TopicLag


def components(
    workspace: Workspace,
    environment: Environment,
    instance: str,
    names: Collection[str] = (),
    metrics: EngineMetrics | None = None,
    control: ControlTopic | None = None,
) -> list[Component]:
    """Everything of the workspace that runs, or what `names` chooses. Raises `UnknownName`."""
    workspace.check_names(names)
    metrics = metrics or EngineMetrics()
    every: list[Component] = [
        *(PipelineComponent(each, workspace, environment, instance, metrics, control) for each in workspace.pipelines),
    ]
    if workspace.connections:
        # Connectors and their kinds of columns would hold up every worker's start.
        from headrace.workspace.connection_components import connection_components

        every.extend(connection_components(workspace, environment, instance))
    chosen = [each for each in every if not names or each.name in names]
    if control is not None:
        control.watching(ReplayNews(control, chosen))
    return chosen


@dataclass(slots=True)
class PipelineComponent:
    """One pipeline in this process."""

    pipeline: CompiledPipeline
    workspace: Workspace
    environment: Environment
    instance: str
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    control: ControlTopic | None = None
    """What this process follows; None where there is none, as in tests."""
    orders: Orders = field(default_factory=Orders)
    kind: ComponentKind = field(default=ComponentKind.PIPELINE, init=False)
    runs_once: bool = field(default=False, init=False)
    pauses_inside: bool = field(default=True, init=False)

    @property
    def name(self) -> str:
        return self.pipeline.plan.name

    def run(self, stop: threading.Event, report: Report) -> None:
        worker = PipelineWorker(
            self.pipeline,
            contracts=self.workspace.topics,
            registry=self.environment.registry,
            log=self.environment.log,
            settings=self._settings(),
            on_status=lambda status: report(pipeline_status(status, self.environment.name)),
            metrics=self.metrics,
            orders=self.orders,
        )
        worker.run(stop)

    def look_for_replays(self) -> None:
        self.orders.ask(lambda parts: parts.replays.tell())

    def set_paused(self, paused: bool) -> None:
        if paused:
            self.orders.pause()
        else:
            self.orders.resume()

    def _settings(self) -> WorkerSettings:
        engine = self.workspace.file.config.engine
        limit_mb = engine.state_memory_mb_max
        config = self.environment.config.snapshots
        return WorkerSettings(
            workspace=self.workspace.name,
            instance=self.instance,
            batch_records_max=engine.batch_records_max,
            static_member=engine.membership == "static",
            state_bytes_max=None if limit_mb is None else limit_mb * 1_000_000,
            state_folder=self._state_folder(),
            environment=self.environment.name,
            snapshots=None if config is None else open_snapshots(config.url, config.client, self.workspace.root),
            snapshot_interval_s=SNAPSHOT_INTERVAL_S if config is None else config.interval_s,
        )

    def _state_folder(self) -> Path | None:
        """With the embedded log everything is on this disk already."""
        if self.environment.log.name != "kafka":
            return None
        return self.workspace.root / LOCAL_FOLDER / "state" / self.environment.name


def pipeline_status(status: WorkerStatus, environment: str) -> ComponentStatus:
    """A worker's report as a status file holds it."""
    return ComponentStatus(
        kind=ComponentKind.PIPELINE,
        name=status.pipeline,
        instance=status.instance,
        environment=environment,
        state=ComponentState(status.state),
        started_at_ms=status.started_ms,
        written_at_ms=status.updated_ms,
        records_in=status.records_in,
        records_out=status.rows_out,
        records_per_second=status.records_per_second,
        dead_letters=sum(status.dead_letters.values()),
        dropped=dict(status.dropped),
        tasks=status.tasks,
        stream_time_ms=_known_time(status.stream_time_ms),
        keys=status.state_keys,
        state_bytes=status.state_bytes,
        error=status.message or None,
        records_restored=status.records_restored,
        restore_records_done=status.restore.records_done if status.restore else None,
        restore_records=status.restore.records_to_do if status.restore else None,
        is_stuck=status.is_stuck,
        lag={topic: TopicLag(records=lag.records, seconds=lag.seconds) for topic, lag in status.lag.items()},
    )


def _known_time(time_ms: int | None) -> int | None:
    """None before the first record of every partition, which the engine says with a time before all others."""
    return None if time_ms is None or time_ms <= BEFORE_ALL_MS else time_ms
