"""A topic that is full, worked through by one system: J1 to J4 and the join of two streams.

Owns the course of one run. What was written is read and compared after the system has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bench.peers import data, oracle
from bench.peers.jobs import Job
from bench.peers.measuring import Measured, Moment, Offsets, measure
from bench.peers.processes import SystemProcess
from bench.peers.rows import Row
from bench.peers.systems import Order, Start, System
from bench.peers.topics import Topics

ANSWERS_KEPT = 3
"""Tables of answers are up to a few hundred megabytes each."""
STATUS_TIMEOUT_S = 10.0
"""It is renewed every second."""


@dataclass(slots=True)
class Throughput:
    """What all runs of a benchmark share."""

    topics: Topics
    records: int
    commit_interval_ms: int
    limit_s: float
    _answers: dict[tuple[str, int, int], pl.DataFrame] = field(default_factory=dict)

    def prepare(self, job: Job, keys: int, system: System) -> None:
        """Its input, filled."""
        for kind in job.inputs:
            self.topics.fill(kind, keys, system.records(job.task, self.records))

    def runs(self, job: Job, keys: int, system: System, number: int) -> Iterator[Row]:
        """One run, checked."""
        records = system.records(job.task, self.records)
        with new_order(self.topics, job, keys, records, self.commit_interval_ms) as order:
            start = system.start(order)
            offsets = Offsets(order.bootstrap, start.group, order.streams, order.output, order.partitions)
            with contextlib.closing(offsets), started(start, order) as process:
                measured = measure(process, offsets, has_group=start.group is not None, limit_s=self.limit_s)
                held = state_bytes_per_key(order.folder) if measured.end else None
                process.stop()
                rows, error = self._check(order, keys, system, measured, process)
        yield _row(order, keys, system, number, measured, rows, error, held)

    def _check(
        self, order: Order, keys: int, system: System, measured: Measured, process: SystemProcess
    ) -> tuple[int | None, str]:
        """Rows written, and what is wrong."""
        if measured.end is None:
            why = (
                f"it ended with {measured.exit_code}: {process.tail()}"
                if measured.exit_code is not None
                else (f"{measured.done:,} records within {self.limit_s:.0f} s")
            )
            return None, f"not done: {why}"
        if system.copies:
            found = self.topics.count(order.output)
            return found, "" if found == order.records else f"{found} records of {order.records}"
        found_rows = self.topics.read(order.output)
        if found_rows.is_empty():
            return 0, "it wrote nothing"
        return found_rows.height, oracle.wrong(order.job, found_rows, self._answer(order.job, keys, order.records))

    def _answer(self, job: Job, keys: int, records: int) -> pl.DataFrame:
        wanted = (job.task, keys, records)
        if wanted not in self._answers:
            if len(self._answers) >= ANSWERS_KEPT:
                self._answers.pop(next(iter(self._answers)))
            orders = data.make_orders(records, keys, self.topics.begin_ms)
            payments = data.make_payments(orders) if "payments" in job.inputs else None
            self._answers[wanted] = oracle.expected(job, orders, payments)
        return self._answers[wanted]


@contextlib.contextmanager
def new_order(
    topics: Topics, job: Job, keys: int, records: int, commit_interval_ms: int, *, own_input: bool = False
) -> Iterator[Order]:
    """A run's own output, name and folder, taken away afterwards; with `own_input` its input, too."""
    token = f"{job.name.lower().replace('-', '_')}_{secrets.token_hex(4)}"
    output = f"bench.out.{token}"
    topics.make(output)
    with tempfile.TemporaryDirectory(prefix="headrace-peers-") as folder:
        (Path(folder) / "state").mkdir()
        try:
            yield Order(
                bootstrap=topics.bootstrap,
                token=token,
                job=job,
                inputs=(f"bench.in.{token}",)
                if own_input
                else tuple(topics.input_topic(kind, keys, records) for kind in job.inputs),
                input_kinds=job.inputs,
                output=output,
                output_schema_id=topics.schema_id(job.schema),
                folder=Path(folder),
                records=records,
                partitions=topics.partitions,
                commit_interval_ms=commit_interval_ms,
            )
        finally:
            topics.delete_with(token)


def started(start: Start, order: Order) -> SystemProcess:
    """The system at work."""
    return SystemProcess(start.command, start.environment, order.folder, order.folder / "worker.log")


def state_bytes_per_key(folder: Path) -> float | None:
    """By headrace's own status, renewed since now; None for other systems, and where there is no state."""
    status = folder / "workspace" / ".headrace" / "status"
    asked_ms, deadline = time.time() * 1000, time.monotonic() + STATUS_TIMEOUT_S
    while status.is_dir() and time.monotonic() < deadline:
        for path in status.glob("pipeline.*.json"):
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["written_at_ms"] > asked_ms:
                return round(told["state_bytes"] / told["keys"], 1) if told["keys"] else None
        time.sleep(0.05)
    return None


def _row(
    order: Order,
    keys: int,
    system: System,
    number: int,
    measured: Measured,
    output_rows: int | None,
    error: str,
    held: float | None,
) -> Row:
    began, half, end = measured.began, measured.half, measured.end
    seconds = cpu_seconds = rate = per_cpu = warm = None
    if began and half and end:
        seconds, cpu_seconds = round(end.at - began.at, 3), round(end.cpu_seconds - began.cpu_seconds, 3)
        rate = _per(began, end, end.at - began.at)
        per_cpu = _per(began, end, end.cpu_seconds - began.cpu_seconds)
        warm = _per(half, end, end.cpu_seconds - half.cpu_seconds)
    first = measured.first_output_seconds
    return Row(
        job=order.job.name,
        keys=keys,
        system=system.name,
        round=number,
        records=end.records if end else order.records,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        records_per_cpu_second=per_cpu,
        records_per_cpu_second_warm=warm,
        peak_rss_mb=round(measured.peak_rss_mb, 1),
        first_output_seconds=None if first is None else round(first, 3),
        output_rows=output_rows,
        correct=not error,
        records_per_second=rate,
        delivery=order.job.delivery,
        commit_interval_ms=order.commit_interval_ms,
        start_cpu_seconds=None if began is None else round(began.cpu_seconds, 3),
        state_bytes_per_key=held,
        load=round(os.getloadavg()[0], 2),
        error=error,
    )


def _per(before: Moment, after: Moment, seconds: float) -> int | None:
    """Records in that time; None where there was next to none (all came with one commit)."""
    return round((after.records - before.records) / seconds) if seconds > 1e-3 else None
