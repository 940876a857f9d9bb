"""The three steps of a foreign-key join with their repartitions, delivered in any order.

Each step runs all its partitions in one operator, and commits for itself; what a step says is in the queues of the
next one when it commits, as with a log. A queue keeps its order; nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from headrace.engine.operator import DELETED, PARTITION, SEQUENCE
from headrace.engine.operators.foreign_match import ForeignMatch
from headrace.engine.operators.foreign_resolve import ForeignResolve
from headrace.engine.operators.foreign_subscribe import ForeignSubscribe
from headrace.engine.repartition import own_partitions
from headrace.flow.steps import ForeignMatchStep, ForeignResolveStep, ForeignSubscribeStep, foreign_columns
from headrace.flow.values import Column
from tests.engine.operators.table_driver import Change, Driver, frame_of

How = Literal["inner", "left"]
LEFT = {"id": pl.String(), "product": pl.String(), "amount": pl.Int64()}
RIGHT = {"sku": pl.String(), "amount": pl.Int64()}
(FOREIGN,) = foreign_columns(1)
SUBSCRIPTIONS = {**LEFT, FOREIGN: pl.String()}
ANSWERS = {**LEFT, "amount_right": pl.Int64()}
AVRO = {"id": "string", "product": ["null", "string"], "amount": ["null", "long"], "amount_right": ["null", "long"]}
LEFT_PARTITIONS, RIGHT_PARTITIONS = 2, 3


def _columns(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(name=name, type=AVRO.get(name, ["null", "string"])) for name in names)


def make_subscribe(how: How, versioned: bool = False) -> ForeignSubscribe:
    """The first step."""
    step = ForeignSubscribeStep(
        name="subscribe",
        columns=_columns(list(SUBSCRIPTIONS)),
        key=("id",),
        messages="subscriptions",
        foreign=("product",),
        how=how,
        versioned=versioned,
        changelog="c",
        fingerprint="f",
    )
    return ForeignSubscribe(step, LEFT, [pl.String()])


def make_match(how: How, versioned: bool = False) -> ForeignMatch:
    """The second step."""
    step = ForeignMatchStep(
        name="match",
        columns=_columns(list(ANSWERS)),
        key=("id",),
        is_table=True,
        messages="answers",
        on=(("product", "sku"),),
        how=how,
        renames={"amount": "amount_right"},
        versioned=versioned,
        changelog="c",
        fingerprint="f",
    )
    return ForeignMatch(step, SUBSCRIPTIONS, RIGHT)


def make_resolve() -> ForeignResolve:
    """The third step."""
    step = ForeignResolveStep(
        name="resolve",
        columns=_columns(list(ANSWERS)),
        key=("id",),
        is_table=True,
        changelog="c",
        fingerprint="f",
    )
    return ForeignResolve(step, ANSWERS)


def partition_of(key: Any, partitions: int) -> int:
    """Where a key lies."""
    return sum(map(ord, key)) % partitions


@dataclass
class Queue:
    """Rows on their way to one partition, and how far they were read."""

    rows: list[Any] = field(default_factory=list)
    read: int = 0
    committed: int = 0

    def take(self, count: int) -> list[Any]:
        """The next rows."""
        taken = self.rows[self.read : self.read + count]
        self.read += len(taken)
        return taken


class Stage:
    """One step: a driver, what it reads, what it has said since its last commit."""

    def __init__(self, driver: Driver, inputs: int, partitions: int) -> None:
        self.driver = driver
        self.queues = [[Queue() for _ in range(partitions)] for _ in range(inputs)]
        self.said: list[pl.DataFrame] = []

    def waiting(self) -> bool:
        """Whether anything is left to read."""
        return any(queue.read < len(queue.rows) for queues in self.queues for queue in queues)

    def commit(self) -> pl.DataFrame:
        """Everything that was said since the last commit."""
        said, self.said = [*self.said, self.driver.commit()], []
        for queues in self.queues:
            for queue in queues:
                queue.committed = queue.read
        return pl.concat(said)

    def rollback(self) -> None:
        """Read again what came after the last commit."""
        self.driver.rollback()
        self.said = []
        for queues in self.queues:
            for queue in queues:
                queue.read = queue.committed


class ForeignJoin:
    """All three steps."""

    def __init__(self, how: How, versioned: tuple[bool, bool] = (False, False)) -> None:
        self.subscribe = Stage(Driver(lambda: make_subscribe(how, versioned[0])), 1, LEFT_PARTITIONS)
        self.match = Stage(Driver(lambda: make_match(how, versioned[1])), 2, RIGHT_PARTITIONS)
        self.resolve = Stage(Driver(make_resolve), 1, LEFT_PARTITIONS)
        self.stages = (self.subscribe, self.match, self.resolve)
        self.table: dict[Any, dict[str, Any]] = {}
        """What stands, by key."""

    def publish(self, change: Change) -> None:
        """A change of one of the tables, in its partition."""
        stage, queues = (self.subscribe, 0) if change.side == 0 else (self.match, 1)
        stage.queues[queues][change.partition].rows.append(change)

    def work(self, number: int, counts: Sequence[int]) -> None:
        """Let a step read so many rows of each of its queues, one queue after the other."""
        stage = self.stages[number]
        sequence = 0
        for partition in range(len(stage.queues[0])):
            taken = []
            for side, queues in enumerate(stage.queues):
                rows = queues[partition].take(counts[(partition + side) % len(counts)])
                taken.append([(sequence + n, row) for n, row in enumerate(rows)])
                sequence += len(rows)
            stage.said.append(stage.driver.process(*_frames(number, taken)))

    def match_one(self, partition: int, count: int) -> None:
        """Let the task of one right partition read so many messages."""
        rows = self.match.queues[0][partition].take(count)
        self.match.said.append(self.match.driver.process(*_frames(1, [list(enumerate(rows)), []])))

    def commit(self, number: int) -> pl.DataFrame:
        """A step commits: what it said is with the next one."""
        said = self.stages[number].commit()
        if number == 0:
            to = own_partitions(said, [FOREIGN], RIGHT_PARTITIONS)
            foreign = said[FOREIGN].to_list()
            for row, key, other in zip(said.iter_slices(1), foreign, to.tolist(), strict=True):
                at = other if key is None else partition_of(key, RIGHT_PARTITIONS)
                self.match.queues[0][at].rows.append(row)
        elif number == 1:
            for row, key in zip(said.iter_slices(1), said["id"].to_list(), strict=True):
                self.resolve.queues[0][partition_of(key, LEFT_PARTITIONS)].rows.append(row)
        else:
            self._apply(said)
        return said

    def _apply(self, said: pl.DataFrame) -> None:
        for row in said.to_dicts():
            if row[DELETED]:
                self.table.pop(row["id"], None)
            else:
                self.table[row["id"]] = row

    def drain(self) -> None:
        """Read everything that is left, through all steps."""
        while any(stage.waiting() for stage in self.stages):
            for number in range(3):
                self.work(number, [1000])
                self.commit(number)

    def through(self, changes: Sequence[tuple[int, Change]]) -> pl.DataFrame:
        """Numbered changes through all steps at once, in their order, with one commit each."""
        left = frame_of([(n, c) for n, c in changes if c.side == 0], "id", LEFT)
        right = frame_of([(n, c) for n, c in changes if c.side == 1], "sku", RIGHT)
        messages = pl.concat([self.subscribe.driver.process(left), self.subscribe.driver.commit()])
        # One task each: partitions are of no matter here.
        here = pl.lit(0, pl.Int32).alias(PARTITION)
        self.match.driver.process(messages.with_columns(here), right.with_columns(here))
        answers = self.match.driver.commit()
        self.resolve.driver.process(answers)
        return self.resolve.driver.commit()


def _frames(number: int, taken: Sequence[list[tuple[int, Any]]]) -> list[pl.DataFrame]:
    if number == 0:
        return [frame_of(taken[0], "id", LEFT)]
    empty = (make_subscribe("left")._empty, make_match("left")._empty)[number - 1]
    frames = [
        row.with_columns(
            pl.lit(sequence, pl.Int64).alias(SEQUENCE),
            pl.lit(_destination(number, row), pl.Int32).alias(PARTITION),
        )
        for sequence, row in taken[0]
    ]
    rows = pl.concat([empty, *frames])
    return [rows] if number == 2 else [rows, frame_of(taken[1], "sku", RIGHT)]


def _destination(number: int, row: pl.DataFrame) -> int:
    if number == 2:
        return partition_of(row["id"][0], LEFT_PARTITIONS)
    key = row[FOREIGN][0]
    if key is None:
        return int(own_partitions(row, [FOREIGN], RIGHT_PARTITIONS)[0])
    return partition_of(key, RIGHT_PARTITIONS)
