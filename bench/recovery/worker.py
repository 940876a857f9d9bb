"""A worker process of the recovery benchmark: `python -m bench.recovery.worker '<JSON>'`.

Owns what such a process tells on its standard output, one JSON object a line: `{"event": ..., "at": <seconds>}`.

- `started`; `restoring` and `restored` for each take-over of partitions, with time, CPU and memory; `stopped`.
- SIGTERM drains it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from bench.recovery import jobs
from headrace.contracts.registry_store import StoredRegistry
from headrace.engine import assembly
from headrace.engine.checkpoint import Checkpoint
from headrace.engine.settings import WorkerSettings, WorkerStatus
from headrace.engine.snapshots import open_snapshots
from headrace.engine.state_restore import StateRestorer
from headrace.engine.subtopology import SubtopologyRunner
from headrace.engine.worker import PipelineWorker
from headrace.log.kafka import KafkaLog
from headrace.log.port import TopicPartition
from headrace.log.schema_topic import SchemaTopic
from headrace.log.without_pandas import leave_pandas_out

STATE_BYTES_MAX = 16_000_000_000


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What a process is to do."""

    bootstrap: str
    job: str
    workspace: str
    instance: str
    state_folder: str | None = None
    snapshots: str | None = None
    commit_interval_ms: int | None = None

    def text(self) -> str:
        return json.dumps(asdict(self))


def tell(event: str, **more: object) -> None:
    """A line for whoever started this process."""
    print(json.dumps({"event": event, "at": time.time(), **more}), flush=True)


def memory_mb(field: str, pid: int | str = "self") -> float:
    """Of `/proc/<pid>/status`: `VmRSS` is what a process holds now, `VmHWM` the most that it ever held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {field} in /proc/{pid}/status")


class MeasuredRestorer(StateRestorer):
    """Tells what each restore took."""

    def __init__(self, *parts: Any, **told: Any) -> None:
        self.records_read = self.loaded_bytes = 0
        on_progress, on_loaded = told.pop("on_progress"), told.pop("on_loaded")

        def progress(topic: str, records: int) -> None:
            self.records_read += records
            on_progress(topic, records)

        def loaded(count: int) -> None:
            self.loaded_bytes += count
            on_loaded(count)

        super().__init__(*parts, on_progress=progress, on_loaded=loaded, **told)

    def restore(
        self, runner: SubtopologyRunner, partitions: Sequence[int], checkpoints: Mapping[TopicPartition, Checkpoint]
    ) -> None:
        before_mb = memory_mb("VmRSS")
        tell("restoring", partitions=list(partitions))
        started, cpu_started = time.perf_counter(), time.process_time()
        super().restore(runner, partitions, checkpoints)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        operators = list(runner.stateful.values())
        tell(
            "restored",
            partitions=list(partitions),
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            keys=sum(sum(each.keys_count().values()) for each in operators),
            records_read=self.records_read,
            loaded_mb=self.loaded_bytes / 1e6,
            state_mb=sum(each.state_bytes() for each in operators) / 1e6,
            before_mb=before_mb,
            after_mb=memory_mb("VmRSS"),
            peak_mb=memory_mb("VmHWM"),
        )


def main(order: WorkerOrder) -> None:
    """Run until SIGTERM."""
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), wrapper_class=quiet)
    vars(assembly)["StateRestorer"] = MeasuredRestorer
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    log = KafkaLog(order.bootstrap)
    registry = StoredRegistry(SchemaTopic(log))
    snapshots = None if order.snapshots is None else open_snapshots(order.snapshots, {}, Path("/"))
    settings = WorkerSettings(
        workspace=order.workspace,
        instance=order.instance,
        commit_interval_ms=order.commit_interval_ms,
        state_bytes_max=STATE_BYTES_MAX,
        state_folder=None if order.state_folder is None else Path(order.state_folder),
        environment="bench",
        snapshots=snapshots,
    )
    last = WorkerStatus("", "", "", 0, 0)

    def note(status: WorkerStatus) -> None:
        nonlocal last
        last = status

    leave_pandas_out()
    tell("started", pid=os.getpid())
    worker = PipelineWorker(
        jobs.compiled(order.job),
        contracts=jobs.CONTRACTS,
        registry=registry,
        log=log,
        settings=settings,
        on_status=note,
    )
    worker.run(stop)
    tell("stopped", records_in=last.records_in, commits=last.commits, cpu_seconds=time.process_time())
    registry.close()
    log.close()


if __name__ == "__main__":
    main(WorkerOrder(**json.loads(sys.argv[1])))
