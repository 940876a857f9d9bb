"""Every change of a table, for steps that must see them one by one.

Owns which steps tell every change, and how their input is cut so that they do.

A step that speaks at flushes tells the last change of each key. A bounded suppression below it needs all of them, in
order: what it lets go in the middle of a batch is the row as it was then, and a row's first time counts. So the steps
above it are flushed as often as it takes.

- Rows of one source row (equal `SEQUENCE`) are never cut apart: they are one change.
- Where a row changes its own key only, a piece goes on until a key comes again; then no change is lost, and the flush
  of a piece, in order of last change, has them in the order of the rows. Elsewhere each source row is a piece.
- Where a step with several inputs is below, each source row is a piece, and what it changes has its number: so the
  changes of one input keep their place among those of the other. Elsewhere changes are numbered in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from headrace.engine.operator import PARTITION, SEQUENCE
from headrace.engine.state.arrays import Ints, hash_frame
from headrace.flow.plan import Plan
from headrace.flow.steps import AggregateStep, SuppressStep, TableTableJoinStep
from headrace.flow.values import StatefulStep, Step, WindowKind

Tell = Callable[[list[pl.DataFrame]], Sequence[pl.DataFrame]]
"""Process these inputs, and flush: what came out."""


def tellers(plan: Plan) -> dict[str, bool]:
    """Stateful steps that a bounded suppression stands below, in whatever subtopology; and whether a step with several
    inputs stands between."""
    found: dict[str, bool] = {}
    waiting = [(name, False) for step in plan.steps if isinstance(step, SuppressStep) for name in step.inputs]
    while waiting:
        name, meets = waiting.pop()
        if found.get(name) in (meets, True):
            continue
        found[name] = meets
        inputs = plan.step(name).inputs
        waiting.extend((each, meets or len(inputs) > 1) for each in inputs)
    return {name: meets for name, meets in found.items() if isinstance(plan.step(name), StatefulStep)}


def every_change(step: Step, inputs: Sequence[pl.DataFrame], tell: Tell, *, one_by_one: bool) -> list[pl.DataFrame]:
    """Everything that a step tells when it is flushed after each piece of its inputs."""
    told, count = [], 0
    for number, piece in change_by_change(step, inputs, one_by_one=one_by_one):
        for frame in tell(piece):
            order = pl.lit(number) if one_by_one else pl.int_range(count, count + frame.height, dtype=pl.Int64)
            told.append(frame.with_columns(order.cast(pl.Int64).alias(SEQUENCE)))
            count += frame.height
    return told


def change_by_change(
    step: Step, inputs: Sequence[pl.DataFrame], *, one_by_one: bool = False
) -> Iterator[tuple[int, list[pl.DataFrame]]]:
    """The inputs of a step in pieces, after each of which it is flushed; with the number of the first source row."""
    sequence = np.concatenate([frame[SEQUENCE].to_numpy() for frame in inputs])
    numbers, source_row = np.unique(sequence, return_inverse=True)
    starts = _starts(len(numbers), source_row, None if one_by_one else _keys(step, inputs))
    if len(starts) <= 1:
        yield int(numbers[0]) if len(numbers) else 0, list(inputs)
        return
    bounds = np.append(numbers[starts], numbers[-1] + 1)
    # Rows of several partitions may come with numbers that go up and down.
    frames = [frame.sort(SEQUENCE, maintain_order=True) for frame in inputs]
    cuts = [np.searchsorted(frame[SEQUENCE].to_numpy(), bounds).tolist() for frame in frames]
    for piece, number in enumerate(bounds[:-1].tolist()):
        spans = ((frame, cut[piece], cut[piece + 1]) for frame, cut in zip(frames, cuts, strict=True))
        yield number, [frame.slice(first, last - first) for frame, first, last in spans]


def _keys(step: Step, inputs: Sequence[pl.DataFrame]) -> Ints | None:
    """A number for the key that each row changes; equal keys have equal numbers. None: a row may change several."""
    columns = _key_columns(step)
    if columns is None:
        return None
    keys = [frame.select(PARTITION, **each) for frame, each in zip(inputs, columns, strict=True)]
    if any(each.schema != keys[0].schema for each in keys):
        return None  # Equal values of different types have different hashes.
    hashes = [hash_frame(each) for each in keys]
    return np.unique(np.concatenate(hashes), return_inverse=True)[1]


def _key_columns(step: Step) -> list[Mapping[str, pl.Expr]] | None:
    """By input, the columns of the key under names that all inputs share."""
    if isinstance(step, AggregateStep):
        # A session takes back the row it had: its changes are in order for one source row only.
        is_session = step.window is not None and step.window.kind is WindowKind.SESSION
        return None if is_session else [{f"#{name}": pl.col(name) for name in step.group}]
    if isinstance(step, TableTableJoinStep):
        pairs = list(enumerate(step.on))
        return [
            {f"#{number}": pl.col(left) for number, (left, _) in pairs},
            {f"#{number}": pl.col(right) for number, (_, right) in pairs},
        ]
    return None


def _starts(count: int, source_row: Ints, key: Ints | None) -> Ints:
    """Source rows with which a piece begins."""
    if key is None:
        return np.arange(count, dtype=np.int64)
    pairs = np.unique(np.stack([key, source_row]), axis=1)
    again = pairs[0][1:] == pairs[0][:-1]
    before = np.full(count, -1, np.int64)
    np.maximum.at(before, pairs[1][1:][again], pairs[1][:-1][again])
    last_seen = np.maximum.accumulate(before)
    starts = [0] if count else []
    while starts and (following := int(np.searchsorted(last_seen, starts[-1]))) < count:
        starts.append(following)
    return np.array(starts, np.int64)
