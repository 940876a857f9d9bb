"""Pipelines, ingress and egress of a workspace as components of a process.

Owns the way from what a workspace says to what `Runtime` runs, and from each worker's report to a `ComponentStatus`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.egress.config import EgressConfig
from headrace.egress.replay_input import REPLAYS_FROM
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import load_connector
from headrace.egress.status import EgressStatus
from headrace.engine.metrics import EngineMetrics
from headrace.engine.orders import Orders
from headrace.engine.settings import SNAPSHOT_INTERVAL_S, WorkerSettings, WorkerStatus
from headrace.engine.snapshots import open_snapshots
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.engine.worker import PipelineWorker
from headrace.errors import HeadraceError
from headrace.flow.plan import CompiledPipeline
from headrace.ingress.cdc.worker import CdcWorker
from headrace.log.port import Fenced
from headrace.workspace.control import ControlTopic
from headrace.workspace.environment import Environment
from headrace.workspace.load import IngressConfig, Workspace
from headrace.workspace.place import LOCAL_FOLDER
from headrace.workspace.plan_connectors import open_ingress
from headrace.workspace.replay_news import ReplayNews
from headrace.workspace.runtime import Component, Report
from headrace.workspace.status import (
    WRITE_INTERVAL_S,
    ComponentKind,
    ComponentState,
    ComponentStatus,
    SourceLogStatus,
    TopicLag,
)


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
        *(IngressComponent(config, workspace, environment, instance) for config in workspace.ingress),
        *(EgressComponent(config, workspace, environment, instance) for config in workspace.egress),
    ]
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


class TakenOver(HeadraceError):
    """Another process runs what this one ran."""

    code = "workspace.taken_over"


@dataclass(slots=True)
class IngressComponent:
    """One ingress in this process, while no other process of this machine runs it.

    A pause ends its run: it is no member of anything, and goes on from the position that it committed.
    """

    config: IngressConfig
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
        with _reporting(lambda previous: self._status(cdc, previous), report):
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
