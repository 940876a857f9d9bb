"""`headrace.testing.Driver`: pipelines in memory, for tests.

Owns the pipelines of one test, the log between them, the wall clock, and the cut of the input into batches.

- It is the engine of production on a log in memory: decoding, operators, state, transactions, changelogs, dead letters.
  Only reading is different: rows are processed in the order in which they were published.
- Nothing is random and nothing waits. The same calls give the same results, down to the order of records.
- Time moves by `advance` alone. Event time comes from the rows.
- Every `publish`, `delete` and `publish_bytes` is one batch, and so is a `batch()` block: it is processed and committed
  before the call, or the block, is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import polars as pl

from headrace.contracts.contract import Contract, ValueFormat
from headrace.contracts.duration import parse_duration_ms
from headrace.contracts.load import load_contracts
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.contracts.yaml_source import closest
from headrace.engine.changelog import SNAPSHOT_ROWS_PER_CHANGE_MAX
from headrace.engine.metrics import EngineMetrics
from headrace.flow.compile import compile_pipelines
from headrace.flow.derived import derived_contract
from headrace.flow.internal_topics import internal_topics
from headrace.flow.pipeline import Pipeline
from headrace.flow.plan import CompiledPipeline, Plan
from headrace.log.columns import outgoing
from headrace.log.port import TopicSpec
from headrace.testing.driver_records import (
    DeadLetter,
    DriverMisused,
    OutputRecord,
    Row,
    Time,
    TopicView,
    TopicWriter,
    dead_letters,
    time_ms,
)
from headrace.testing.memory_log import MemoryLog
from headrace.testing.stepped_worker import SteppedWorker

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The wall clock when a driver begins, unless it is told."""
LOOK_S = 0.5
"""`advance` lets the pipelines look at the clock so often at first: what is idle is noticed and believed by steps."""
FIRST_LOOKS = 10
LATER_LOOKS = 10
"""After that it looks so often in all, and whenever a timer is due."""
MOMENTS_MAX = 100_000
"""In one `advance`."""

Pipelines = Pipeline | CompiledPipeline
Contracts = Iterable[Contract] | Mapping[str, Contract] | str | Path
Key = Any
"""The value of a key's only column, or a tuple of all of them."""


class Driver:
    """Runs pipelines in memory. A context manager; `close` frees what they hold.

        with Driver(carrier_delays, contracts="contracts") as driver:
            driver.publish("flights.departed", {"carrier": "AA", ...}, time="2026-01-01T12:00:00")
            assert driver.rows("carrier.delays.hourly") == [...]

    `contracts`: of the topics that the pipelines read, as values or as a folder of files (or a workspace, whose
    `contracts/` is taken). `partitions`: of every topic, or by topic.
    """

    def __init__(
        self,
        *pipelines: Pipelines,
        contracts: Contracts = (),
        partitions: int | Mapping[str, int] = 1,
        start: Time = START,
    ) -> None:
        self._declared = _contracts(contracts)
        self._partitions = partitions
        self._now_ms = time_ms(start)
        self._registry = MemoryRegistry()
        self._log = MemoryLog(lambda: self._now_ms)
        self._admin = self._log.admin()
        self._metrics = EngineMetrics()
        self._dropped_before: Counter[tuple[str, str]] = Counter()
        self._writers: dict[str, TopicWriter] = {}
        self._views: dict[str, TopicView] = {}
        self._taken: Counter[str] = Counter()
        self._is_in_batch = False
        self._contracts: dict[str, Contract] = {}
        self._workers: list[SteppedWorker] = []
        try:
            self._open(pipelines)
        except BaseException:
            self.close()
            raise

    def _open(self, pipelines: Sequence[Pipelines]) -> None:
        if not pipelines:
            raise DriverMisused("there is no pipeline to drive", cure="pass a function under @hr.pipeline")
        compiled = _compiled(pipelines, self._declared)
        derived = {each.topic: derived_contract(one.plan, each) for one in compiled for each in one.plan.outputs}
        self._contracts = {**self._declared, **derived}
        self._writers, self._views = {}, {}
        self._compiled = compiled
        self._make_topics()
        for one in compiled:
            worker = SteppedWorker(
                one,
                contracts=self._contracts,
                registry=self._registry,
                log=self._log,
                clock=lambda: self._now_ms / 1000,
                metrics=self._metrics,
            )
            self._workers.append(worker)
            worker.open()

    def _make_topics(self) -> None:
        specs = {topic: TopicSpec(topic, self._partitions_of(topic)) for topic in self._contracts}
        for one in self._compiled:
            for each in internal_topics(one.plan, self._partitions_of):
                specs[each.name] = TopicSpec(each.name, each.partitions, config=each.config)
        there = self._admin.topics()
        self._admin.create_topics([spec for topic, spec in specs.items() if topic not in there])

    def _partitions_of(self, topic: str) -> int:
        return self._partitions if isinstance(self._partitions, int) else self._partitions.get(topic, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free everything. Idempotent."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()

    # Input

    def publish(self, topic: str, rows: Row | Sequence[Row], *, time: Time | Sequence[Time] | None = None) -> None:
        """Publish a row, or several.

        `time` is the timestamp of the records, one for all or one for each; without it, the row's event time where the
        contract names a column, else the wall clock. Raises `DriverMisused` for a row that does not fit the contract.
        """
        given = _several(rows)
        self._store(topic, given, _times(time, len(given)), deleted=False)

    def delete(self, topic: str, keys: Row | Sequence[Row], *, time: Time | Sequence[Time] | None = None) -> None:
        """Delete rows of a table: a tombstone for each key, in a topic of kind `change` a deleting envelope."""
        given = _several(keys)
        self._store(topic, given, _times(time, len(given)), deleted=True)

    def _store(self, topic: str, rows: Sequence[Row], times_ms: Sequence[int] | None, *, deleted: bool) -> None:
        writer = self._writers.get(topic)
        if writer is None:
            writer = self._writers[topic] = TopicWriter(self._contract(topic), self._registry)
        encode = writer.deletions if deleted else writer.rows
        if rows:
            self._log.store(encode(rows, times_ms, self._now_ms))
        self._settle()

    def publish_bytes(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        time: Time | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> None:
        """Publish a record as it is, whether it fits the contract or not."""
        self._contract(topic)
        stamp = self._now_ms if time is None else time_ms(time)
        self._log.store(
            outgoing(topic, [value], keys=[key], timestamps_ms=[stamp], headers=[headers], partitions=partition)
        )
        self._settle()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Everything published inside is read by the pipelines together, and committed together."""
        if self._is_in_batch:
            raise DriverMisused("a batch inside a batch", cure="end the first one")
        self._is_in_batch = True
        try:
            yield
        finally:
            self._is_in_batch = False
        self._settle()

    def publish_many(
        self, rows: Sequence[tuple[str, Row, Time | None]], *, batches: Sequence[int] | None = None
    ) -> None:
        """Publish (topic, row, time) in this order, cut into batches of these sizes; without sizes, all in one."""
        sizes = [len(rows)] if batches is None else list(batches)
        if sum(sizes) != len(rows) or any(size < 1 for size in sizes):
            raise DriverMisused(f"batches of {sizes} do not cut {len(rows)} rows")
        start = 0
        for size in sizes:
            with self.batch():
                for (topic, is_timed), run in groupby(
                    rows[start : start + size], key=lambda each: (each[0], each[2] is not None)
                ):
                    given = list(run)
                    times = [time for _, _, time in given if time is not None] if is_timed else None
                    self.publish(topic, [row for _, row, _ in given], time=times)
            start += size

    # Time and faults

    @property
    def now(self) -> datetime:
        """The wall clock."""
        return datetime.fromtimestamp(self._now_ms / 1000, UTC)

    def advance(self, duration: float | str) -> None:
        """Let time pass, in seconds or as text (`"30s"`): for `idle_close`, timers and what else looks at the clock."""
        length_ms = parse_duration_ms(duration) if isinstance(duration, str) else round(duration * 1000)
        if length_ms <= 0 or self._is_in_batch:
            raise DriverMisused("time goes forward, and between batches")
        end_ms = self._now_ms + length_ms
        looks = _looks(self._now_ms, end_ms)
        for _ in range(MOMENTS_MAX):
            wakes = (worker.wake_at_ms() for worker in self._workers)
            moments = (*looks, *(wake for wake in wakes if wake is not None))
            self._now_ms = min(each for each in moments if each > self._now_ms)
            self._work()
            if self._now_ms >= end_ms:
                break
        else:
            raise DriverMisused(f"timers fire more than {MOMENTS_MAX} times in {duration}", cure="advance by less")
        self._log.label += 1

    def restart(self, *pipelines: Pipelines) -> None:
        """Throw away all that is in memory, and start again from what is in the log, as after a crash.

        With `pipelines` these run from now on, as after a new release: `StateMeansAnother` tells when they cannot take
        over the state.
        """
        self._dropped_before = self.dropped
        self.close()
        self._open(pipelines or self._compiled)

    def abort_next(self, times: int = 1) -> None:
        """Abort the next transactions instead of committing them. Their input is then processed again."""
        self._log.commits_to_refuse += times

    # Output

    def records(self, topic: str) -> list[OutputRecord]:
        """All records of a topic with keys, times and tombstones, in the order in which they came."""
        view = self._views.get(topic)
        if view is None:
            view = self._views[topic] = TopicView(self._contract(topic), self._registry)
        return view.records(self._log.labelled(topic))

    def rows(self, topic: str) -> list[dict[str, Any]]:
        """All rows of a topic, in the order in which they came, without tombstones."""
        return [dict(record.row) for record in self.records(topic) if record.row is not None]

    def new_rows(self, topic: str) -> list[dict[str, Any]]:
        """Rows that came since the last call with this topic."""
        records = self.records(topic)
        fresh, self._taken[topic] = records[self._taken[topic] :], len(records)
        return [dict(record.row) for record in fresh if record.row is not None]

    def table(self, topic: str) -> dict[Key, dict[str, Any]]:
        """The latest row of each key: by the key's value, or by a tuple where it has several columns."""
        found: dict[Key, dict[str, Any]] = {}
        for record in self.records(topic):
            if record.key is None:
                raise DriverMisused(f"{topic!r} has a record without a key", cure="use rows()")
            values = tuple(record.key.values())
            key = values[0] if len(values) == 1 else values
            found.pop(key, None)
            if record.row is not None:
                found[key] = dict(record.row)
        return found

    def dead_letters(self) -> list[DeadLetter]:
        """What could not be processed, by pipeline, in order."""
        topics = [one.plan.dead_letter_topic for one in self._compiled]
        return dead_letters([batch for topic in topics for batch, _ in self._log.labelled(topic)])

    @property
    def dropped(self) -> Counter[tuple[str, str]]:
        """Rows left out by rule, by (step, reason)."""
        total = self._dropped_before.copy()
        for worker in self._workers:
            total.update(worker.dropped)
        return total

    def state(self, step: str, store: str = "") -> pl.DataFrame:
        """What a step keeps, as it is written to its changelog. An empty frame without columns when that is nothing."""
        for worker in self._workers:
            found = worker.stateful(step)
            if found is not None:
                operator, partitions = found
                changes = [
                    change
                    for partition in partitions
                    for change in operator.snapshot(partition, SNAPSHOT_ROWS_PER_CHANGE_MAX)
                    if change.store == store
                ]
                return pl.concat([change.frame for change in changes]) if changes else pl.DataFrame()
        known = [name for worker in self._workers for name in worker.stateful_steps()]
        near = closest(step, known)
        raise DriverMisused(
            f"there is no step {step!r} with state", cure=f"did you mean {near!r}?" if near else f"there are: {known}"
        )

    @property
    def plans(self) -> dict[str, Plan]:
        """The plans that run, by pipeline."""
        return {one.plan.name: one.plan for one in self._compiled}

    # Inside

    def _settle(self) -> None:
        if not self._is_in_batch:
            self._work()
            self._log.label += 1

    def _work(self) -> None:
        if not self._workers:
            raise DriverMisused("the driver is closed")
        for worker in self._workers:  # Writers before readers.
            worker.settle()

    def _contract(self, topic: str) -> Contract:
        try:
            return self._contracts[topic]
        except KeyError:
            near = closest(topic, self._contracts)
            known = ", ".join(sorted(self._contracts))
            cure = f"did you mean {near!r}?" if near else f"there are contracts of {known}"
            raise DriverMisused(f"there is no topic {topic!r}", cure=cure) from None


def _compiled(pipelines: Sequence[Pipelines], contracts: Mapping[str, Contract]) -> list[CompiledPipeline]:
    """Plans, writers before readers."""
    ready = [each for each in pipelines if isinstance(each, CompiledPipeline)]
    if len(ready) == len(pipelines):
        return ready
    if ready:
        raise DriverMisused("compiled pipelines and others together", cure="pass all of them as they were decorated")
    for each in pipelines:
        if not isinstance(each, Pipeline):
            raise DriverMisused(f"{each!r} is no pipeline", cure="put @hr.pipeline over the function")
    return compile_pipelines([each for each in pipelines if isinstance(each, Pipeline)], contracts)


def _contracts(given: Contracts) -> dict[str, Contract]:
    """By topic. Whoever writes a topic in production, a test's rows are written as headrace writes them."""
    return {topic: replace(each, format=ValueFormat.AVRO) for topic, each in _given(given).items()}


def _given(given: Contracts) -> dict[str, Contract]:
    if isinstance(given, str | Path):
        folder = Path(given)
        inner = folder / "contracts"
        found = load_contracts(inner if inner.is_dir() else folder)
        if not found:
            raise DriverMisused(f"{folder} holds no contracts", cure="name a workspace or its folder of contracts")
        return dict(found)
    values = given.values() if isinstance(given, Mapping) else given
    return {contract.topic: contract for contract in values}


def _several(rows: Row | Sequence[Row]) -> Sequence[Row]:
    return [rows] if isinstance(rows, Mapping) else rows


def _times(time: Time | Sequence[Time] | None, count: int) -> list[int] | None:
    if time is None:
        return None
    if isinstance(time, int | str | datetime):
        return [time_ms(time)] * count
    times = [time_ms(each) for each in time]
    if len(times) != count:
        raise DriverMisused(f"{len(times)} times for {count} rows")
    return times


def _looks(start_ms: int, end_ms: int) -> list[int]:
    """When `advance` looks at the clock in any case, ascending; the end is the last."""
    step_ms = int(LOOK_S * 1000)
    first = range(start_ms + step_ms, min(end_ms, start_ms + step_ms * FIRST_LOOKS), step_ms)
    rest_ms = end_ms - (first[-1] if first else start_ms)
    later = [end_ms - rest_ms * left // LATER_LOOKS for left in range(LATER_LOOKS - 1, -1, -1)]
    return sorted({*first, *later})
