"""Restore: a sum and a count of five million keys come back from their changelog; a table is loaded.

Owns how both systems do it; the state, its input and headrace's worker are those of bench/recovery.

- The state is built once for headrace and once for Kafka Streams, from one topic with each key once, exactly once.
- Each measured run starts a worker with an empty disk. Seconds and processor seconds are those inside it, from the
  beginning of its first partition's restore to the end of its last's.
- It is right when as many keys come back, or rows are loaded, as there are.
- Kafka Streams reads a table as it reads a stream, with the rows that are joined: J3 has it in its figures.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import runs
from bench.peers.jobs import Job
from bench.peers.measuring import Offsets
from bench.peers.processes import SystemProcess, cpu_seconds_of
from bench.peers.rows import Row
from bench.peers.systems import Order, System
from bench.peers.throughput import started
from bench.peers.topics import Topics
from bench.recovery import jobs as accounts
from bench.recovery import restoring
from bench.recovery.processes import WorkerProcess
from bench.recovery.setting import Setting
from headrace.contracts.registry_store import StoredRegistry
from headrace.log.kafka import KafkaLog
from headrace.log.schema_topic import SchemaTopic

STREAMS = "kafka-streams"
TABLE, LOOKED_UP = "TABLE", "looked_up"
STREAMS_GROUP = "bench_restore"
BUILD_TIMEOUT_S = 1_800.0
RESTORE_TIMEOUT_S = 900.0
POLL_S = 0.05


@dataclass(slots=True)
class Restore:
    """What all runs share."""

    topics: Topics
    keys: int
    commit_interval_ms: int
    resources: ExitStack
    """Closed when the benchmark ends."""
    _setting: Setting | None = None
    _table: Setting | None = None
    _built: set[str] = field(default_factory=set)

    def prepare(self, job: Job, keys: int, system: System) -> None:
        """Build the state of this system."""
        if job.name == TABLE:
            self._table_of(keys)
        elif system.name == STREAMS:
            self._build_streams(self._opened(), job, system)
        else:
            self._opened()

    def runs(self, job: Job, keys: int, system: System, number: int) -> Iterator[Row]:
        """One restore."""
        count = keys if job.name == TABLE else self.keys
        row = Row(job.name, count, system.name, number, count, delivery=job.delivery)
        row = replace(row, commit_interval_ms=self.commit_interval_ms, load=round(os.getloadavg()[0], 2))
        if job.name == TABLE:
            yield from self._load(row, keys, system)
        else:
            yield self._streams(row, job, system) if system.name == STREAMS else self._headrace(row, system)

    def _opened(self) -> Setting:
        """The topic, full, and headrace's state with it."""
        if self._setting is None:
            self._setting = self._new_setting()
            restoring.build(self._setting, self.keys, 1)
        return self._setting

    def _new_setting(self) -> Setting:
        log = self.resources.enter_context(contextlib.closing(KafkaLog(self.topics.bootstrap)))
        registry = self.resources.enter_context(contextlib.closing(StoredRegistry(SchemaTopic(log))))
        folder = Path(self.resources.enter_context(tempfile.TemporaryDirectory()))
        return Setting(self.topics.bootstrap, log, registry, folder)

    def _table_of(self, count: int) -> Setting:
        """The table, full, and nothing to look up in it."""
        if self._table is None:
            self._table = self._new_setting()
            runs.make_topics(self._table.log, [accounts.TOPIC, accounts.ACCOUNTS.topic])
            runs.make_topics_of(self._table.log, accounts.compiled(LOOKED_UP))
            self._table.publish([])
            runs.publish(self._table.log, self._table.registry, accounts.ACCOUNTS, accounts.accounts(count))
        return self._table

    def _load(self, row: Row, count: int, system: System) -> Iterator[Row]:
        """By a group that never read it, then by a worker that comes back."""
        setting = self._table_of(count)
        setting.workspace = f"bench-{secrets.token_hex(4)}"
        with _environment(system.environment):
            with WorkerProcess(setting.order(LOOKED_UP, "first")) as worker:
                worker.wait_restored(runs.PARTITIONS)
                began, cpu_began = time.perf_counter(), cpu_seconds_of(worker.pid)
                setting.wait_until_done(LOOKED_UP)
                seconds, cpu_seconds = time.perf_counter() - began, cpu_seconds_of(worker.pid) - cpu_began
                yield _loaded(replace(row, variant="read first"), count, seconds, cpu_seconds)
            with WorkerProcess(setting.order(LOOKED_UP, "again")) as worker:
                worker.wait_for(lambda each: any(event["records_read"] >= count for event in each.named("restored")))
                events = worker.named("restored")
        seconds, cpu_seconds = (sum(event[name] for event in events) for name in ("seconds", "cpu_seconds"))
        yield _loaded(replace(row, variant="restored"), events[-1]["records_read"], seconds, cpu_seconds)

    def _headrace(self, row: Row, system: System) -> Row:
        with _environment(system.environment):
            found = restoring.measure_restore(self._opened(), "changelog")
        return replace(
            row,
            seconds=found.seconds,
            cpu_seconds=found.cpu_seconds,
            records_per_cpu_second=round(found.keys / found.cpu_seconds),
            records_per_second=found.keys_per_second,
            # That of the state and what its restore took beside it.
            peak_rss_mb=found.peak_mb,
            state_bytes_per_key=found.state_bytes_per_key,
            correct=found.keys == self.keys,
            error="" if found.keys == self.keys else f"{found.keys} keys of {self.keys}",
        )

    def _build_streams(self, setting: Setting, job: Job, system: System) -> None:
        if STREAMS in self._built:
            return
        with self._streams_process(setting, job, system) as (process, order):
            offsets = Offsets(order.bootstrap, STREAMS_GROUP, order.inputs, order.inputs[0], order.partitions)
            with contextlib.closing(offsets):
                _until(lambda: offsets.committed() >= offsets.total, process, BUILD_TIMEOUT_S)
        self._built.add(STREAMS)

    def _streams(self, row: Row, job: Job, system: System) -> Row:
        with self._streams_process(self._opened(), job, system) as (process, _):

            def is_done() -> bool:
                told = _told(process)
                return told is not None and told[0] >= self.keys

            _until(is_done, process, RESTORE_TIMEOUT_S)
            told, peak_mb = _told(process), process.peak_rss_mb()
        assert told is not None
        keys, seconds, cpu_seconds = told
        return replace(
            row,
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu_seconds, 3),
            records_per_cpu_second=round(keys / cpu_seconds),
            records_per_second=round(keys / seconds),
            peak_rss_mb=round(peak_mb, 1),
            correct=keys == self.keys,
            error="" if keys == self.keys else f"{keys} keys of {self.keys}",
        )

    @contextlib.contextmanager
    def _streams_process(self, setting: Setting, job: Job, system: System) -> Iterator[tuple[SystemProcess, Order]]:
        """Kafka Streams with an empty disk."""
        with tempfile.TemporaryDirectory(prefix="headrace-peers-") as folder:
            order = Order(
                bootstrap=setting.bootstrap,
                token=STREAMS_GROUP,
                job=job,
                inputs=(accounts.TOPIC,),
                input_kinds=("payments",),
                output="",
                output_schema_id=0,
                folder=Path(folder),
                records=self.keys,
                partitions=self.topics.partitions,
                commit_interval_ms=self.commit_interval_ms,
            )
            start = system.start(order)
            start.environment["BENCH_INPUT_SCHEMA"] = accounts.CONTRACT.schema.text
            with started(start, order) as process:
                yield process, order


def _loaded(row: Row, found: int, seconds: float, cpu_seconds: float) -> Row:
    return replace(
        row,
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        records_per_cpu_second=round(found / cpu_seconds),
        records_per_second=round(found / seconds),
        correct=found == row.records,
        error="" if found == row.records else f"{found} rows of {row.records}",
    )


def _told(process: SystemProcess) -> tuple[int, float, float] | None:
    """Keys, seconds and processor seconds, by the last line about it."""
    lines = process.output.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line.split() for line in lines if line.startswith("restored ")]
    return (int(found[-1][1]), float(found[-1][2]), float(found[-1][3])) if found else None


def _until(done: Callable[[], bool], process: SystemProcess, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if process.has_ended() or time.monotonic() > deadline:
            raise RuntimeError(f"Kafka Streams does not get there: {process.tail()}")
        time.sleep(POLL_S)


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """For processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
