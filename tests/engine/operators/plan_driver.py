"""A compiled pipeline at work without a log: rows in frames, commits, aborts, restarts.

Rows that are moved to another key go from subtopology to subtopology when their writer commits, with its promises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from headrace.contracts.contract import Contract
from headrace.engine import changelog
from headrace.engine.async_bridge import AsyncBridge
from headrace.engine.build import build_runner, frame_schema, user_schema
from headrace.engine.bulk_apply import BulkApply
from headrace.engine.dead_letters import DeadLetters
from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    RowError,
    StatefulOperator,
)
from headrace.engine.repartition import own_partitions
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.engine.subtopology import SubtopologyRunner
from headrace.flow.compile import compile_pipeline
from headrace.flow.pipeline import pipeline
from headrace.flow.steps import RepartitionStep, SinkStep, SourceStep
from headrace.flow.values import StatefulStep
from tests.engine.operators.aggregate_driver import ROWS_AT_ONCE

Out = tuple[Any, ...]


@dataclass(frozen=True)
class In:
    """A row of a topic. Without values it is a deletion."""

    topic: str
    partition: int
    time_ms: int
    values: Mapping[str, Any]


class Letters:
    """Counts dead letters."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()

    def add_rows(self, frame: pl.DataFrame, errors: Sequence[RowError], *, step: str, stage: str) -> None:
        """Count."""
        self.codes.update(error.code for error in errors)


PARTITIONS = (0, 1)


class PlanDriver:
    """All subtopologies of a pipeline over two partitions."""

    def __init__(self, function: Callable[[], Any], *contracts: Contract) -> None:
        declared = {each.topic: each for each in contracts}
        self.compiled = compile_pipeline(pipeline(name="shop", owner="tests")(function), declared)
        self._schemas = {step.name: frame_schema(step) for step in self.compiled.plan.steps}
        self.letters, self.dropped = Letters(), Counter[tuple[str, str]]()
        self.log: list[tuple[str, int, bytes]] = []
        self.committed: dict[str, list[Out]] = {}
        self._pending: dict[str, list[Out]] = {}
        self._moving: dict[str, list[pl.DataFrame]] = {}
        self.runners = self._fresh()
        self._clocks = self._copied_clocks()

    def _fresh(self) -> list[SubtopologyRunner]:
        return [
            build_runner(
                self.compiled,
                subtopology,
                schemas=self._schemas,
                bridge=cast(AsyncBridge, None),
                dead_letters=cast(DeadLetters, self.letters),
                dropped=self.dropped,
                now_ms=lambda: 0,
            )
            for subtopology in self.compiled.plan.subtopologies
        ]

    def batch(self, rows: Sequence[In]) -> None:
        """One pass over rows in this order."""
        frames = {topic: self._frame(topic, rows) for topic in dict.fromkeys(row.topic for row in rows)}
        self.runners[0].run(frames, self._emit)

    def _frame(self, topic: str, rows: Sequence[In]) -> pl.DataFrame:
        (step,) = [s for s in self.compiled.plan.steps if isinstance(s, SourceStep) and s.topic == topic]
        mine = [(sequence, row) for sequence, row in enumerate(rows) if row.topic == topic]
        columns = [
            pl.Series(name, [row.values.get(name) for _, row in mine], dtype, strict=True)
            for name, dtype in user_schema(step).items()
        ]
        system = {
            PARTITION: [row.partition for _, row in mine],
            TIME: [row.time_ms for _, row in mine],
            SEQUENCE: [sequence for sequence, _ in mine],
            SOURCE: [None] * len(mine),
        }
        columns += [pl.Series(name, values, SYSTEM_COLUMNS[name]) for name, values in system.items()]
        if step.is_table:
            gone = [
                all(row.values.get(c.name) is None for c in step.columns if c.name not in step.key) for _, row in mine
            ]
            columns.append(pl.Series(DELETED, gone))
        return pl.DataFrame(columns)

    def _emit(self, step: SinkStep | RepartitionStep, frame: pl.DataFrame) -> None:
        if isinstance(step, RepartitionStep):
            moved = pl.Series(PARTITION, own_partitions(frame, step.key, len(PARTITIONS)), pl.Int32)
            self._moving.setdefault(step.topic, []).append(frame.with_columns(moved))
            return
        plain = frame.with_columns(pl.col(pl.Datetime).dt.timestamp("ms"))
        names = [name for name in plain.columns if name not in (STREAM_TIME, SEQUENCE, SOURCE)]
        self._pending.setdefault(step.topic, []).extend(plain.select(names).rows())

    def close_idle(self, step: str, partition: int) -> None:
        """Close a step's windows as idle."""
        for runner in self.runners:
            for each in runner.steps:
                if each.name == step:
                    assert isinstance(each, StatefulStep)
                    runner.close_idle(each, [partition], self._emit)

    def commit(self) -> None:
        """Flush, write the changelogs, publish; rows that are moved are processed and committed, too."""
        for runner in self.runners:
            self._deliver(runner)
            runner.run({}, self._emit, flush=True)
        for runner in self.runners:
            self._write(runner)
            runner.commit()
        self._clocks = self._copied_clocks()
        for topic, rows in self._pending.items():
            self.committed.setdefault(topic, []).extend(rows)
        self._pending = {}

    def _deliver(self, runner: SubtopologyRunner) -> None:
        """Rows that were moved, and what their writers promise."""
        topics = self.compiled.plan.subtopologies[runner.index].reads
        for writer in self.runners[: runner.index]:
            for step in writer.steps:
                if isinstance(step, RepartitionStep) and step.topic in topics:
                    promised = writer.closing.get(step.name, {})
                    reached = min(promised.get(origin, BEFORE_ALL_MS) for origin in PARTITIONS)
                    runner.repartition_clock[step.topic] = dict.fromkeys(PARTITIONS, reached)
        rows = {topic: self._moving.pop(topic) for topic in topics if topic in self._moving}
        order = pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE)
        runner.run({topic: pl.concat(frames).with_columns(order) for topic, frames in rows.items()}, self._emit)

    def _write(self, runner: SubtopologyRunner) -> None:
        for name, operator in runner.stateful.items():
            for change in operator.changes():
                messages = changelog.encode(change, "f", bytes_max=2_000)
                self.log.extend((name, change.partition, message) for message in messages)

    def rollback(self) -> None:
        """Back to the last commit; its rows must come again."""
        for runner in self.runners:
            runner.rollback()
        self._set_clocks()
        self._pending, self._moving = {}, {}

    def restore(self) -> None:
        """After a commit: new runners from the changelogs."""
        self.runners = self._fresh()
        self._set_clocks()
        for runner in self.runners:
            for name, operator in runner.stateful.items():
                self._read(name, operator)

    def _read(self, name: str, operator: StatefulOperator) -> None:
        readers: dict[int, changelog.ChangelogReader] = {}
        bulk = BulkApply(operator, rows_max=ROWS_AT_ONCE)
        for step, partition, message in self.log:
            if step == name:
                found = readers.setdefault(partition, changelog.ChangelogReader(partition)).read(message)
                if found is not None:
                    bulk.add(found.change, is_snapshot=False)
        bulk.flush()
        operator.commit()

    def _copied_clocks(self) -> list[tuple[dict[int, int], dict[int, int], dict[str, dict[int, int]]]]:
        return [(dict(r.source_clock), dict(r.table_clock), dict(r.repartition_clock)) for r in self.runners]

    def _set_clocks(self) -> None:
        for runner, (source, table, repartition) in zip(self.runners, self._clocks, strict=True):
            for clock, kept in ((runner.source_clock, source), (runner.table_clock, table)):
                clock.clear()
                clock.update(kept)
            runner.repartition_clock = dict(repartition)


def play(driver: PlanDriver, rows: Sequence[In], events: Mapping[int, str]) -> dict[str, list[Out]]:
    """All rows, with `events[i]` before row i: cut, commit, abort, restore. What was committed."""
    done = kept = 0
    for at in [*sorted(each for each in events if each < len(rows)), len(rows)]:
        if at > done:
            driver.batch(rows[done:at])
            done = at
        match events.get(at, "commit") if at < len(rows) else "commit":
            case "cut":
                continue
            case "abort":
                driver.rollback()
                if done > kept:
                    driver.batch(rows[kept:done])
            case "restore":
                driver.commit()
                driver.restore()
                kept = done
            case _:
                driver.commit()
                kept = done
    return driver.committed
