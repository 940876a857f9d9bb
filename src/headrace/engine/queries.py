"""Questions to a pipeline's tables, answered from the state in memory.

Owns what happens on the worker's thread: the rows of a key, or some rows of all keys, as the table has them.

- A question is asked between two transactions (`headrace.engine.orders`), so its answer is committed state.
- Only partitions whose tasks run here are answered for; a question for another one is refused, never guessed at.
- Rows go through the row-wise steps below their holder, so an answer is the row that the topic has, or will have.
- An answer says which of its rows the topic does not have yet: those of windows that speak once when they close, and
  those that `suppress` holds back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.assembly import Assembly
from headrace.engine.build import user_schema
from headrace.engine.held_tables import HeldTable
from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    HoldsTable,
    Operator,
    Queryable,
)
from headrace.engine.operators.expire import Expire
from headrace.engine.operators.suppress import Suppress
from headrace.engine.state.arrays import Mask
from headrace.engine.subtopology import SubtopologyRunner
from headrace.engine.tasks import Task
from headrace.errors import Fault, HeadraceError
from headrace.flow.plan import Plan

EVERYWHERE = 0
"""The one partition of a table that every process holds whole."""


class NotHere(HeadraceError):
    """The tasks of these partitions do not run in this process, or not yet."""

    code = "engine.partition_not_here"
    fault = Fault.RETRY


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one table."""

    keys: pl.DataFrame | None
    """Keys in `HeldTable.held_key`'s columns and types; None: any rows."""
    partitions: tuple[int, ...]
    """Where to look; of no meaning for a table that every process holds whole."""
    rows_max: int
    window_start_ms: int | None = None
    """Only the window that begins then."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Committed rows."""

    rows: pl.DataFrame
    """The table's columns."""
    pending: Mask
    """By row: the topic does not have it as it is here."""
    is_cut: bool
    """There may be more rows than were asked for."""


def key_schema(plan: Plan, table: HeldTable) -> dict[str, pl.DataType]:
    """Types of a question's key columns, by the names of the table that is asked."""
    types = user_schema(plan.step(table.held_by))
    return {name: types[held] for name, held in zip(table.key, table.held_key, strict=True)}


def answer(parts: Assembly, plan: Plan, table: HeldTable, question: Question) -> Answer:
    """Called on the worker's thread. Raises `NotHere`."""
    task = next(each for each in parts.tasks.tasks if each.runner.index == table.holder.subtopology)
    partitions = _partitions(task, table, question)
    rows, was_cut = _held(task.runner.operator(table.holder.step), table, question, partitions)
    return _through(parts, table, _complete(plan, table, rows), question, was_cut=was_cut)


def _partitions(task: Task, table: HeldTable, question: Question) -> tuple[int, ...]:
    if table.holder.is_broadcast:
        return (EVERYWHERE,)
    away = sorted(set(question.partitions) - task.partitions)
    if away:
        named = ", ".join(map(str, away))
        raise NotHere(f"partitions {named} of table {table.name!r} are not in this process", cure="ask again")
    return question.partitions


# Rows as they are held


def _held(
    operator: Operator, table: HeldTable, question: Question, partitions: Sequence[int]
) -> tuple[pl.DataFrame, bool]:
    """Rows of the holder, and whether there may be more."""
    if question.keys is not None:
        return _rows_of(operator, table, _everywhere(question.keys, partitions)), False
    pieces: list[pl.DataFrame] = []
    left = question.rows_max + 1
    for partition in partitions:
        if left > 0:
            pieces.append(_some_rows(operator, table, partition, left))
            left -= pieces[-1].height
    return (pl.concat(pieces) if pieces else _some_rows(operator, table, EVERYWHERE, 0)), left <= 0


def _rows_of(operator: Operator, table: HeldTable, keys: pl.DataFrame) -> pl.DataFrame:
    if table.holder.side is None:
        assert isinstance(operator, Queryable), f"step {table.holder.step} holds what it gives"
        return operator.rows_of(keys)
    assert isinstance(operator, HoldsTable), f"step {table.holder.step} holds what it reads"
    return operator.held_rows_of(table.holder.side, keys)


def _some_rows(operator: Operator, table: HeldTable, partition: int, rows_max: int) -> pl.DataFrame:
    if table.holder.side is None:
        assert isinstance(operator, Queryable), f"step {table.holder.step} holds what it gives"
        return operator.some_rows(partition, rows_max)
    assert isinstance(operator, HoldsTable), f"step {table.holder.step} holds what it reads"
    return operator.some_held_rows(table.holder.side, partition, rows_max)


def _everywhere(keys: pl.DataFrame, partitions: Sequence[int]) -> pl.DataFrame:
    """Each key in each partition."""
    places = pl.DataFrame({PARTITION: pl.Series(partitions, dtype=pl.Int32)})
    if not keys.width:
        return places  # A table without a key has one row in each partition.
    return keys.join(places, how="cross")


def _complete(plan: Plan, table: HeldTable, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows as the step that is held would give them, system columns too."""
    missing = {
        PARTITION: pl.lit(EVERYWHERE, pl.Int32),
        TIME: pl.lit(0, pl.Int64),
        STREAM_TIME: pl.lit(0, pl.Int64),
        SEQUENCE: pl.int_range(pl.len(), dtype=pl.Int64),
        SOURCE: pl.lit(None, SYSTEM_COLUMNS[SOURCE]),
        DELETED: pl.lit(value=False),
    }
    rows = rows.with_columns(column.alias(name) for name, column in missing.items() if name not in rows.columns)
    types = user_schema(plan.step(table.held_by))
    return rows.select(*(pl.col(name).cast(dtype) for name, dtype in types.items()), *missing)


# Down to the table


def _is_pending(parts: Assembly, table: HeldTable) -> bool:
    operator = _runner_of(parts, table.holder.step).operator(table.holder.step)
    return table.holder.side is None and isinstance(operator, Queryable) and operator.rows_are_pending


def _runner_of(parts: Assembly, step: str) -> SubtopologyRunner:
    return next(task.runner for task in parts.tasks.tasks if any(each.name == step for each in task.runner.steps))


def _through(parts: Assembly, table: HeldTable, rows: pl.DataFrame, question: Question, *, was_cut: bool) -> Answer:
    pending = np.full(rows.height, _is_pending(parts, table))
    for name in table.chain:
        runner = _runner_of(parts, name)
        operator = runner.operator(name)
        if isinstance(operator, Suppress):
            pending |= operator.holds(rows)
        elif isinstance(operator, Expire):
            rows = rows.with_columns((pl.col(DELETED) | ~pl.Series(operator.holds(rows))).alias(DELETED))
        else:
            rows = runner.passed(name, rows)
    stands = ~rows[DELETED].to_numpy()
    if question.window_start_ms is not None and table.window_start is not None:
        starts = rows[table.window_start].dt.epoch("ms")
        stands &= (starts == question.window_start_ms).fill_null(value=False).to_numpy()
    at = np.flatnonzero(stands)
    is_cut = was_cut or len(at) > question.rows_max
    at = at[: question.rows_max]
    return Answer(rows.select(table.columns)[at], pending[at], is_cut)
