"""Latency and throughput under load, and memory over time.

- Latency is from the moment a record is handed to its producer to the moment a read-committed consumer has the row that
  follows from it; records come evenly.
- Scaling is the time of a full topic from the first commit of any worker to the last, so that starting is not in it.
- Memory is what the worker process holds, sampled; `slope` is that of a line through the second half of the samples.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import polars as pl

from bench.recovery import jobs
from bench.recovery.processes import WorkerProcess, until
from bench.recovery.setting import PARTITIONS, Publishing, Setting, Watching
from headrace.log.port import TopicPartition

RECORDS_PER_SECOND = 5_000
TICK_S = 0.01
ACCOUNTS = 10_000
WARM_UP_S = 3.0
SAMPLE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    commit_interval_ms: int
    records: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """A full topic by so many processes."""

    processes: int
    records: int
    seconds: float
    records_per_second: float


@dataclass(frozen=True, slots=True)
class Soak:
    """Memory of a worker under steady load."""

    minutes: float
    records: int
    first_mb: float
    """Median of the first quarter, behind the warm-up."""
    last_mb: float
    peak_mb: float
    slope_mb_per_hour: float


class Stream:
    """Payments at a steady rate, by a thread."""

    def __init__(self, setting: Setting, records_per_second: int) -> None:
        self.sent = 0
        self._setting, self._rate = setting, records_per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Publishing(self._setting) as publishing:
            started = time.perf_counter()
            while not self._stop.wait(TICK_S):
                due = int((time.perf_counter() - started) * self._rate)
                if due > self.sent:
                    now_ms = time.time_ns() // 1_000_000
                    publishing.send(jobs.payments_now(ACCOUNTS, due - self.sent, now_ms, first=self.sent))
                    self.sent = due

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure_latency(setting: Setting, commit_interval_ms: int, seconds: float) -> Latency:
    """One worker, `passed`."""
    setting.make_topics("passed")
    setting.publish([])
    order = setting.order("passed", "one", commit_interval_ms=commit_interval_ms)
    with WorkerProcess(order) as worker:
        worker.wait_restored(PARTITIONS)
        with contextlib.closing(Watching(setting, "passed")) as watching, Stream(setting, RECORDS_PER_SECOND):
            delays = np.concatenate(list(_delays(watching, seconds)))
    low, high = np.percentile(delays, [50, 99])
    return Latency(
        commit_interval_ms, len(delays), round(float(low), 1), round(float(high), 1), round(float(delays.max()), 1)
    )


def _delays(watching: Watching, seconds: float) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Milliseconds of each row that comes after the warm-up."""
    begin = time.monotonic() + WARM_UP_S
    while time.monotonic() < begin + seconds:
        answer = watching.poll(0.05)
        if answer is not None and time.monotonic() > begin:
            at, frame = answer
            yield at * 1000 - frame["paid_at"].dt.epoch("ms").cast(pl.Float64).to_numpy()


def measure_scaling(setting: Setting, processes: int, records: int) -> Scaling:
    """`windows` over a topic that is full, by so many workers."""
    setting.make_topics("windows")
    setting.publish(jobs.payments(100_000, records))
    with ExitStack() as stack, contextlib.closing(setting.log.admin()) as admin:
        for number in range(processes):
            stack.enter_context(WorkerProcess(setting.order("windows", f"worker-{number}")))
        group = f"{setting.workspace}.windows"
        here = [TopicPartition(jobs.TOPIC, number) for number in range(PARTITIONS)]

        def done() -> int:
            found = admin.group_offsets(group)
            return sum(found[each].offset for each in here if each in found)

        until(lambda: done() > 0, "the first commit")
        began, at_first = time.perf_counter(), done()
        setting.wait_until_done("windows")
        seconds = time.perf_counter() - began
    return Scaling(processes, records, round(seconds, 3), round((records - at_first) / seconds))


def measure_soak(setting: Setting, minutes: float) -> Soak:
    """One worker, `windows`, for so long."""
    setting.make_topics("windows")
    samples: list[float] = []
    with WorkerProcess(setting.order("windows", "one", disk="soak-disk")) as worker:
        worker.wait_restored(PARTITIONS)
        with Stream(setting, RECORDS_PER_SECOND) as stream:
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                time.sleep(min(SAMPLE_INTERVAL_S, max(0.0, end - time.monotonic())))
                samples.append(worker.rss_mb)
        sent = stream.sent
    return _soak(minutes, sent, samples)


def _soak(minutes: float, sent: int, samples: list[float]) -> Soak:
    values = np.array(samples)
    quarter = max(1, len(values) // 4)
    late = values[len(values) // 2 :]
    hours = np.arange(len(late)) * SAMPLE_INTERVAL_S / 3600
    slope = float(np.polyfit(hours, late, 1)[0]) if len(late) > 1 else 0.0
    return Soak(
        minutes=minutes,
        records=sent,
        first_mb=round(float(np.median(values[quarter : 2 * quarter])), 1),
        last_mb=round(float(np.median(values[-quarter:])), 1),
        peak_mb=round(float(values.max()), 1),
        slope_mb_per_hour=round(slope, 1),
    )
