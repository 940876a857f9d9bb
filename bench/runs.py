"""One worker over topics that are already full: what the benchmarks of the engine share.

Owns the logs, the topics, the publishing, the measured run and the reading back.

- A run is from the worker's start to the commit of the last record of every topic that it reads, its own internal ones
  too; CPU is that of this process alone, all threads.
- `embedded` runs in process on the embedded log, whose work is counted; `kafka` over a real broker, whose CPU is not.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from headrace.contracts.contract import Contract
from headrace.contracts.polars_types import to_polars
from headrace.contracts.registry import Registry
from headrace.engine.operator import TIME
from headrace.engine.settings import BATCH_RECORDS_MAX, WorkerSettings
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.topic_reader import TopicReader
from headrace.engine.worker import PipelineWorker
from headrace.flow.internal_topics import internal_topics
from headrace.flow.plan import CompiledPipeline
from headrace.log.port import Admin, Consumer, Log, TopicPartition, TopicSpec

PARTITIONS = 4
POLL_S = 0.02
RUN_TIMEOUT_S = 600.0
CHUNK_ROWS = 20_000
PROBE_S = 0.5
TRAILING_MARKERS_MAX = 20
"""A worker commits the position of its last record; so many markers may follow it."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a run took."""

    seconds: float
    cpu_seconds: float


@contextlib.contextmanager
def open_log(name: str) -> Iterator[Log]:
    """The log of this name: `embedded`, in a folder of its own, or `kafka`."""
    if name == "kafka":
        from headrace.log.kafka import KafkaLog
        from headrace.testing.broker import running_broker

        configured = os.environ.get("HEADRACE_TEST_KAFKA")
        with contextlib.ExitStack() as stack:
            log: Log = KafkaLog(configured or stack.enter_context(running_broker()).bootstrap)
            yield log
            log.close()
        return
    if name != "embedded":
        sys.exit(f"unknown log {name!r}: embedded or kafka")
    from headrace.log.embedded import EmbeddedLog

    with tempfile.TemporaryDirectory() as folder:
        log = EmbeddedLog(Path(folder) / "log.db")
        yield log
        log.close()


def make_topics(log: Log, names: Iterable[str]) -> None:
    """These topics, empty."""
    _make(log, [TopicSpec(name, PARTITIONS) for name in names])


def make_topics_of(log: Log, compiled: CompiledPipeline) -> None:
    """What the pipeline writes, empty."""
    specs = [TopicSpec(output.topic, PARTITIONS) for output in compiled.plan.outputs]
    internal = internal_topics(compiled.plan, lambda _: PARTITIONS)
    specs += [TopicSpec(topic.name, topic.partitions, config=topic.config) for topic in internal]
    _make(log, specs)


def _make(log: Log, specs: list[TopicSpec]) -> None:
    with contextlib.closing(log.admin()) as admin:
        there = admin.topics(internal=True)
        admin.delete_topics([spec.name for spec in specs if spec.name in there])
        admin.create_topics(specs)


def publish(log: Log, registry: Registry, contract: Contract, frame: pl.DataFrame) -> None:
    """The rows as records, in their order."""
    assert contract.time is not None
    writer = SinkWriter(contract, registry)
    producer = log.producer()
    stamped = frame.with_columns(pl.col(contract.time).dt.epoch("ms").alias(TIME))
    for start in range(0, frame.height, CHUNK_ROWS):
        outgoing, errors = writer.encode(stamped.slice(start, CHUNK_ROWS))
        assert not errors
        producer.produce(outgoing)
    producer.flush()
    producer.close()


def work(
    log: Log,
    registry: Registry,
    compiled: CompiledPipeline,
    contracts: Mapping[str, Contract],
    *,
    batch_records_max: int = BATCH_RECORDS_MAX,
) -> Used:
    """Run a worker until everything is committed."""
    # A name of its own, so that no position of an earlier run is found: Kafka may write the last ones late.
    workspace = f"bench-{secrets.token_hex(4)}"
    settings = WorkerSettings(workspace=workspace, instance="one", batch_records_max=batch_records_max)
    worker = PipelineWorker(compiled, contracts=contracts, registry=registry, log=log, settings=settings)
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run(stop)
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    reads = {topic for each in compiled.plan.subtopologies for topic in each.reads}
    with contextlib.closing(log.admin()) as admin, contextlib.closing(log.consumer()) as probe:
        started, cpu_started = time.perf_counter(), time.process_time()
        thread.start()
        while not failures and not is_done(admin, probe, f"{workspace}.{compiled.plan.name}", reads):
            assert time.perf_counter() - started < RUN_TIMEOUT_S, "the worker does not finish"
            time.sleep(POLL_S)
        used = Used(time.perf_counter() - started, time.process_time() - cpu_started)
    stop.set()
    thread.join()
    if failures:
        raise failures[0]
    return used


def is_done(admin: Admin, probe: Consumer, group: str, reads: Iterable[str]) -> bool:
    """Whether nothing is left to read behind the committed positions."""
    # Positions first: rows that are written meanwhile move the ends, and it is not done.
    committed = admin.group_offsets(group)
    here = [TopicPartition(topic, number) for topic in reads for number in range(PARTITIONS)]
    ends = {each: end for each, end in probe.end_offsets(here, committed=False).items() if end}
    if not committed.keys() >= ends.keys():
        return False
    behind = {each: committed[each].offset for each, end in ends.items() if committed[each].offset < end}
    if any(ends[each] - offset > TRAILING_MARKERS_MAX for each, offset in behind.items()):
        return False
    return not behind or _hold_nothing(probe, behind, ends)


def _hold_nothing(probe: Consumer, behind: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> bool:
    """Whether there are only markers of transactions between these positions and the ends, as Kafka keeps them."""
    probe.assign(behind)
    deadline = time.monotonic() + PROBE_S
    while time.monotonic() < deadline:
        if probe.poll(1, POLL_S):
            return False
        if all(position >= ends[each] for each, position in probe.position(list(behind)).items()):
            return True
    return False


def read_all(log: Log, registry: Registry, contract: Contract) -> pl.DataFrame:
    """All committed rows of a topic, each partition's in the order of their offsets."""
    reader = TopicReader(contract, registry)
    consumer = log.consumer()
    here = [TopicPartition(contract.topic, partition) for partition in range(PARTITIONS)]
    # Behind the last transaction too, whose marker may be under way.
    ends = consumer.end_offsets(here, committed=False)
    consumer.assign(dict.fromkeys(here, -2))
    frames: list[pl.DataFrame] = []
    while any(consumer.position([each])[each] < end for each, end in ends.items() if end):
        frames.extend(reader.read(batch).frame for batch in consumer.poll(50_000, 0.5))
    consumer.close()
    return pl.concat(frames) if frames else pl.DataFrame(schema=to_polars(contract.schema))
