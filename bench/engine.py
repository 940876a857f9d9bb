"""The engine benchmark: what one worker does with a topic that is already full.

Owns the jobs, the measurement and its report. Every answer is checked.

- `filter_project`: keep a quarter of the rows, four columns of seven.
- `tumbling_sum`: sum and count by customer and minute, updates every commit, state with changelog, exactly once.
- A run is from the worker's start to the commit of the last record; CPU is that of this process alone (all threads).
- `embedded` runs in process on the embedded log; `kafka` over a real broker, whose CPU is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import headrace as hr
from bench import orders
from headrace import col
from headrace.contracts.registry import Registry
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.operator import TIME
from headrace.engine.settings import WorkerSettings
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.topic_reader import TopicReader
from headrace.engine.worker import PipelineWorker
from headrace.flow.compile import compile_pipeline
from headrace.flow.derived import derived_contract
from headrace.flow.internal_topics import internal_topics
from headrace.flow.plan import CompiledPipeline
from headrace.log.port import Log, TopicPartition, TopicSpec

RECORDS = 200_000
POLL_S = 0.002
RUN_TIMEOUT_S = 600.0
CHUNK_ROWS = 20_000


@dataclass(frozen=True)
class Row:
    """One measured run."""

    job: str
    keys: int
    log: str
    round: int
    records: int
    seconds: float
    cpu_seconds: float
    records_per_second: float
    records_per_cpu_second: float
    output_rows: int
    correct: bool


@hr.pipeline(owner="bench")
def filter_project() -> Any:
    """Paid orders, four columns."""
    paid = hr.stream(orders.TOPIC).filter(col("status") == "PAID")
    return paid.select("order_id", "customer_id", "placed_at", "amount").to("bench.paid")


@hr.pipeline(owner="bench")
def tumbling_sum() -> Any:
    """Sum and count by customer and minute."""
    return (
        hr.stream(orders.TOPIC)
        .group_by("customer_id")
        .window(hr.tumbling("60s", grace="10s"))
        .agg(total=hr.sum("amount"), orders=hr.count())
        .to("bench.totals", emit="updates")
    )


JOBS: Mapping[str, tuple[Any, int]] = {
    "filter_project": (filter_project, 1_000),
    "tumbling_sum_1k": (tumbling_sum, 1_000),
    "tumbling_sum_100k": (tumbling_sum, 100_000),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", default=",".join(JOBS), help="names, separated by commas")
    parser.add_argument("--logs", default="embedded,kafka", help="embedded, kafka or both")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Interleave jobs and logs over the rounds; 1 when an answer was wrong."""
    rows = []
    with contextlib.ExitStack() as stack:
        logs = {name: stack.enter_context(_open_log(name)) for name in arguments.logs.split(",")}
        for number in range(arguments.rounds):
            for job in arguments.jobs.split(","):
                for name, log in logs.items():
                    row = _measure(job, name, log, number, arguments.records)
                    rows.append(row)
                    if arguments.json:
                        print(json.dumps(asdict(row)), flush=True)
    if not arguments.json:
        _print_table(rows)
    return 0 if all(row.correct for row in rows) else 1


@contextlib.contextmanager
def _open_log(name: str) -> Iterator[Log]:
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


def _measure(job: str, log_name: str, log: Log, number: int, records: int) -> Row:
    pipeline, customers = JOBS[job]
    registry = MemoryRegistry()
    compiled = compile_pipeline(pipeline, {orders.TOPIC: orders.CONTRACT})
    frame = orders.make_orders(records, customers)
    _make_topics(log, compiled)
    _publish(log, registry, frame)
    seconds, cpu_seconds = _work(log, registry, compiled, job, number)
    rows_out, correct = _check(log, registry, compiled, frame)
    return Row(
        job=job,
        keys=customers,
        log=log_name,
        round=number,
        records=records,
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        records_per_second=round(records / seconds),
        records_per_cpu_second=round(records / cpu_seconds),
        output_rows=rows_out,
        correct=correct,
    )


def _make_topics(log: Log, compiled: CompiledPipeline) -> None:
    admin = log.admin()
    internal = internal_topics(compiled.plan, lambda _: orders.PARTITIONS)
    output = compiled.plan.outputs[0].topic
    specs = [TopicSpec(name, orders.PARTITIONS) for name in (orders.TOPIC, output)]
    specs += [TopicSpec(topic.name, topic.partitions, config=topic.config) for topic in internal]
    there = admin.topics(internal=True)
    admin.delete_topics([spec.name for spec in specs if spec.name in there])
    for group in admin.groups():
        if group.startswith("bench."):
            admin.delete_group(group)
    admin.create_topics(specs)
    admin.close()


def _publish(log: Log, registry: Registry, frame: pl.DataFrame) -> None:
    writer = SinkWriter(orders.CONTRACT, registry)
    producer = log.producer()
    stamped = frame.with_columns(pl.col("placed_at").dt.epoch("ms").alias(TIME))
    for start in range(0, frame.height, CHUNK_ROWS):
        outgoing, errors = writer.encode(stamped.slice(start, CHUNK_ROWS))
        assert not errors
        producer.produce(outgoing)
    producer.flush()
    producer.close()


def _work(log: Log, registry: Registry, compiled: CompiledPipeline, job: str, number: int) -> tuple[float, float]:
    """Seconds and CPU seconds until everything is committed."""
    settings = WorkerSettings(workspace="bench", instance=f"{job}-{number}")
    worker = PipelineWorker(
        compiled, contracts={orders.TOPIC: orders.CONTRACT}, registry=registry, log=log, settings=settings
    )
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            worker.run(stop)
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work)
    started, cpu_started = time.perf_counter(), time.process_time()
    thread.start()
    admin = log.admin()
    here = [TopicPartition(orders.TOPIC, partition) for partition in range(orders.PARTITIONS)]
    ends = admin.end_offsets(here)
    group = f"bench.{compiled.plan.name}"
    while not failures and not _is_done(admin.group_offsets(group), ends):
        assert time.perf_counter() - started < RUN_TIMEOUT_S, "the worker does not finish"
        time.sleep(POLL_S * 10)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    stop.set()
    thread.join()
    admin.close()
    if failures:
        raise failures[0]
    return seconds, cpu_seconds


def _is_done(committed: Mapping[TopicPartition, Any], ends: Mapping[TopicPartition, int]) -> bool:
    return all(here in committed and committed[here].offset >= end for here, end in ends.items())


def _check(log: Log, registry: Registry, compiled: CompiledPipeline, frame: pl.DataFrame) -> tuple[int, bool]:
    """Rows written, and whether they say what the source says."""
    output = compiled.plan.outputs[0]
    found = _read_all(log, TopicReader(derived_contract(compiled.plan, output), registry), output.topic)
    if output.topic == "bench.paid":
        return found.height, found.height == orders.paid_rows(frame)
    latest = found.unique(["customer_id", "window_start"], keep="last", maintain_order=True)
    windows, total = orders.window_sums(frame)
    correct = latest.height == windows and latest["total"].sum() == total and latest["orders"].sum() == frame.height
    return found.height, bool(correct)


def _read_all(log: Log, reader: TopicReader, topic: str) -> pl.DataFrame:
    consumer = log.consumer()
    here = [TopicPartition(topic, partition) for partition in range(orders.PARTITIONS)]
    ends = consumer.end_offsets(here)
    consumer.assign(dict.fromkeys(here, -2))
    frames: list[pl.DataFrame] = []
    while any(consumer.position([each])[each] < end for each, end in ends.items() if end):
        frames.extend(reader.read(batch).frame for batch in consumer.poll(50_000, 0.5))
    consumer.close()
    return pl.concat(frames)


def _print_table(rows: list[Row]) -> None:
    print(f"{'job':20} {'log':9} {'records/s':>10} {'per CPU-s':>10} {'seconds':>8} {'output':>9}  answer")
    for row in rows:
        verdict = "right" if row.correct else "WRONG"
        print(
            f"{row.job:20} {row.log:9} {row.records_per_second:10,.0f} {row.records_per_cpu_second:10,.0f}"
            f" {row.seconds:8.2f} {row.output_rows:9,}  {verdict}"
        )
    rates = np.array([row.records_per_cpu_second for row in rows])
    print(f"median {np.median(rates):,.0f} records per CPU-second over {len(rows)} runs")
