"""The engine benchmark: what one worker does with a topic that is already full.

Owns the jobs, the measurement and its report. Every answer is checked.

- `filter_project`: keep a quarter of the rows, four columns of seven.
- `tumbling_sum`: sum and count by customer and minute, updates every commit, state with changelog, exactly once.
- `runs` says what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

import headrace as hr
from bench import orders, runs
from headrace import col
from headrace.contracts.registry import Registry
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.compile import compile_pipeline
from headrace.flow.derived import derived_contract
from headrace.flow.plan import CompiledPipeline
from headrace.log.port import Log

RECORDS = 200_000


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
        logs = {name: stack.enter_context(runs.open_log(name)) for name in arguments.logs.split(",")}
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


def _measure(job: str, log_name: str, log: Log, number: int, records: int) -> Row:
    pipeline, customers = JOBS[job]
    registry = MemoryRegistry()
    compiled = compile_pipeline(pipeline, {orders.TOPIC: orders.CONTRACT})
    frame = orders.make_orders(records, customers)
    runs.make_topics(log, [orders.TOPIC])
    runs.make_topics_of(log, compiled)
    runs.publish(log, registry, orders.CONTRACT, frame)
    used = runs.work(log, registry, compiled, {orders.TOPIC: orders.CONTRACT})
    rows_out, correct = _check(log, registry, compiled, frame)
    return Row(
        job=job,
        keys=customers,
        log=log_name,
        round=number,
        records=records,
        seconds=round(used.seconds, 3),
        cpu_seconds=round(used.cpu_seconds, 3),
        records_per_second=round(records / used.seconds),
        records_per_cpu_second=round(records / used.cpu_seconds),
        output_rows=rows_out,
        correct=correct,
    )


def _check(log: Log, registry: Registry, compiled: CompiledPipeline, frame: pl.DataFrame) -> tuple[int, bool]:
    """Rows written, and whether they say what the source says."""
    output = compiled.plan.outputs[0]
    found = runs.read_all(log, registry, derived_contract(compiled.plan, output))
    if output.topic == "bench.paid":
        return found.height, found.height == orders.paid_rows(frame)
    latest = found.unique(["customer_id", "window_start"], keep="last", maintain_order=True)
    windows, total = orders.window_sums(frame)
    correct = latest.height == windows and latest["total"].sum() == total and latest["orders"].sum() == frame.height
    return found.height, bool(correct)


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
