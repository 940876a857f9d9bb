"""Latency and throughput under load, and memory over time.

- Latency is from the moment a record is to be handed to its producer (records are made ready before, and come evenly)
  to the moment a read-committed consumer has the row that follows from it. Whatever is in the way counts.
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

from bench.recovery import jobs
from bench.recovery.processes import WorkerProcess, until
from bench.recovery.setting import PARTITIONS, Publishing, Setting, Watching
from headrace.log.port import Outgoing, TopicPartition

RECORDS_PER_SECOND = 5_000
TICK_S = 0.01
ACCOUNTS = 10_000
WARM_UP_S = 3.0
READY_S = 10.0
LEAD_S = 3.0
"""For making payments ready, before the first of them is due."""
SAMPLE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    commit_interval_ms: int
    delivery: str
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
    """Payments at a steady rate, by a thread; made ready for `ready_s` at a time, and sent every `TICK_S`."""

    def __init__(self, setting: Setting, records_per_second: int, ready_s: float = READY_S) -> None:
        self.sent = 0
        self._setting, self._rate, self._ticks = setting, records_per_second, int(ready_s / TICK_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Publishing(self._setting) as publishing:
            while not self._stop.is_set():
                begin_s = time.time() + LEAD_S
                for number, records in enumerate(self._ready(publishing, begin_s)):
                    if self._stop.wait(max(0.0, begin_s + number * TICK_S - time.time())):
                        return
                    publishing.produce(records)
                    self.sent += len(records)

    def _ready(self, publishing: Publishing, begin_s: float) -> list[Outgoing]:
        """The payments of each tick from a moment on."""
        per_tick = int(self._rate * TICK_S)
        times_ms = (begin_s * 1000 + np.arange(self._ticks) * (TICK_S * 1000)).astype(np.int64).repeat(per_tick)
        whole = publishing.encoded(jobs.payments_at(ACCOUNTS, times_ms, first=self.sent))
        return [_slice(whole, number * per_tick, per_tick) for number in range(self._ticks)]

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _slice(records: Outgoing, first: int, count: int) -> Outgoing:
    assert records.key is not None
    assert records.timestamp_ms is not None
    times_ms = records.timestamp_ms[first : first + count]
    return Outgoing(
        records.topic, records.value.slice(first, count), key=records.key.slice(first, count), timestamp_ms=times_ms
    )


def measure_latency(setting: Setting, commit_interval_ms: int, seconds: float, job: str = "passed") -> Latency:
    """One worker, `passed` or `forwarded`."""
    setting.make_topics(job)
    setting.publish([])
    order = setting.order(job, "one", commit_interval_ms=commit_interval_ms)
    with WorkerProcess(order) as worker:
        worker.wait_restored(PARTITIONS)
        stream = Stream(setting, RECORDS_PER_SECOND, seconds + 2 * WARM_UP_S)
        with contextlib.closing(Watching(setting, job)) as watching, stream:
            delays = np.concatenate(list(_delays(watching, seconds)))
    low, high = (round(float(each), 1) for each in np.percentile(delays, [50, 99]))
    delivery = jobs.compiled(job).plan.delivery.value
    return Latency(commit_interval_ms, delivery, len(delays), low, high, round(float(delays.max()), 1))


def _delays(watching: Watching, seconds: float) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Milliseconds of each row that comes after the warm-up."""
    while not watching.poll_raw(0.05)[1]:
        pass
    begin = time.monotonic() + WARM_UP_S
    while time.monotonic() < begin + seconds:
        at, batches = watching.poll_raw(0.05)
        if time.monotonic() > begin:
            yield from (at * 1000 - batch.timestamp_ms for batch in batches)


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
