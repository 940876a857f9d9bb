"""First third of a foreign-key join: changes of the left table become subscriptions.

Owns the foreign key that each left key has now, and the version counter of each partition.

- Nothing is put together: each change is sent at once, a move to another foreign key as `LEAVE`, then `SUBSCRIBE`.
- A foreign key of which a part is null is none. An inner join counts a row without one as dropped, unless it takes a
  match away.
- Versions of a partition only grow, also over the end of a key, so nothing is kept of a key that is gone (where the
  table keeps history: its last time).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.operator import (
    DELETED,
    INSTRUCTION,
    PARTITION,
    SYSTEM_COLUMNS,
    TIME,
    VERSION,
    OperatorContext,
    RowError,
    system_schema,
)
from headrace.engine.operators.foreign_key import Instruction
from headrace.engine.operators.null_keys import NULL_KEY, with_keys
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.operators.table_rows import OUT_OF_ORDER, nulls_where
from headrace.engine.operators.turns import before, first_of_run, last_of_runs, not_older
from headrace.engine.state.arrays import Ints, Mask
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.state.row_store import equal_rows, gathered
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.steps import ForeignSubscribeStep, foreign_columns

_UNKNOWN, _GONE, _ALIVE = 0, 1, 2
_STATE, _TIME = "state", "time_ms"
_LAST_VERSION = "version"


@dataclass(frozen=True, slots=True)
class _Moves:
    """Rows by key, with the foreign key before and after each."""

    slot: Ints
    alive: Mask
    was_alive: Mask
    old: pl.DataFrame
    new: pl.DataFrame
    had: Mask
    has: Mask


class ForeignSubscribe(StoreOperator):
    """`left`: columns of the left table; `foreign`: types of the right key's columns, in their order."""

    def __init__(
        self, step: ForeignSubscribeStep, left: Mapping[str, pl.DataType], foreign: Sequence[pl.DataType]
    ) -> None:
        self._step = step
        self._left = list(left)
        self._values = [name for name in left if name not in step.key]
        self._foreign = dict(zip(foreign_columns(len(foreign)), foreign, strict=True))
        self._rows = KeyedRows({name: left[name] for name in step.key}, self._foreign, (_STATE, _TIME))
        schema = {**left, **self._foreign, **system_schema(step)}
        empty = pl.DataFrame(schema={name: schema[name] for name in [*left, *self._foreign, *system_schema(step)]})
        super().__init__({"rows": self._rows}, empty)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """The messages of these changes."""
        frame = with_keys(inputs[0], self._step.key, context)
        if not frame.height:
            return self._empty
        slots, _ = self._rows.upsert(frame)
        if self._step.versioned:
            frame, slots = self._in_order(frame, slots, context)
        versions = self._versions(frame)
        by_slot = np.argsort(slots, kind="stable")
        moves = self._moves(gathered(frame, by_slot), slots[by_slot])
        self._put(moves, frame[TIME].to_numpy()[by_slot])
        leaves, main = self._instructions(moves)
        self._drop_without_foreign(frame, by_slot[moves.alive & (main < 0)], context)
        return self._messages(frame, by_slot, moves, leaves, main, versions)

    def _in_order(self, frame: pl.DataFrame, slots: Ints, context: OperatorContext) -> tuple[pl.DataFrame, Ints]:
        """The rows that are not older than the newest of their key."""
        newest = np.where(self._rows[_STATE][slots] != _UNKNOWN, self._rows[_TIME][slots], BEFORE_ALL_MS)
        kept = not_older(slots, frame[TIME].to_numpy(), newest)
        context.count_dropped(OUT_OF_ORDER, int(np.count_nonzero(~kept)))
        return frame.filter(pl.Series(kept)), slots[kept]

    def _versions(self, frame: pl.DataFrame) -> Ints:
        """The next versions of each row's partition."""
        partitions = frame[PARTITION].to_numpy()
        versions = np.zeros(frame.height, np.int64)
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            last = self._number(partition, _LAST_VERSION, 0)
            versions[rows] = last + 1 + np.arange(len(rows))
            self._set_number(partition, _LAST_VERSION, last + len(rows))
        return versions

    def _moves(self, frame: pl.DataFrame, slots: Ints) -> _Moves:
        """Rows sorted by slot, with what was before."""
        alive = ~frame[DELETED].to_numpy()
        new = frame.select(
            pl.col(column).cast(dtype).alias(name)
            for column, (name, dtype) in zip(self._step.foreign, self._foreign.items(), strict=True)
        )
        has = alive & new.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
        new = nulls_where(new, ~has)
        first = first_of_run(slots)
        at = np.arange(len(slots), dtype=np.int64)
        source = np.where(first == at, at, len(slots) + at - 1)
        old = gathered(pl.concat([self._rows.values(slots), new]), source)
        was_alive = before(alive, first, self._rows[_STATE][slots] == _ALIVE)
        had = old.to_series(0).is_not_null().to_numpy() & was_alive
        return _Moves(slots, alive, was_alive, old, new, had, has)

    def _put(self, moves: _Moves, time_ms: Ints) -> None:
        last = np.flatnonzero(last_of_runs(moves.slot))
        slots = moves.slot[last]
        self._rows.touch(slots)
        self._rows[_STATE][slots] = np.where(moves.alive[last], _ALIVE, _GONE)
        self._rows[_TIME][slots] = time_ms[last]
        self._rows.set_values(slots, gathered(moves.new, last))
        if not self._step.versioned:
            self._rows.drop(slots[~moves.alive[last]])

    def _instructions(self, moves: _Moves) -> tuple[Mask, Ints]:
        """Which rows leave a foreign key, and each row's other message (-1: none)."""
        same = moves.had & moves.has & equal_rows(moves.old, moves.new)
        is_left = self._step.how == "left"
        stays = moves.has | (moves.alive & is_left)
        ends = (moves.was_alive & ~moves.alive) if is_left else (moves.had & ~moves.has)
        main = np.full(len(moves.slot), -1, np.int64)
        main[stays] = Instruction.SUBSCRIBE
        main[same] = Instruction.RENEW
        main[ends] = Instruction.DELETE
        return moves.had & stays & ~same, main

    def _drop_without_foreign(self, frame: pl.DataFrame, rows: Ints, context: OperatorContext) -> None:
        if len(rows):
            context.count_dropped(NULL_KEY, len(rows))
            message = f"null in {', '.join(self._step.foreign)}"
            context.dead_letter(frame, [RowError(row, "process.null_key", message) for row in np.sort(rows).tolist()])

    def _messages(
        self, frame: pl.DataFrame, by_slot: Ints, moves: _Moves, leaves: Mask, main: Ints, versions: Ints
    ) -> pl.DataFrame:
        """In the order of the rows, `LEAVE` before the other message of its row."""
        at = np.concatenate([np.flatnonzero(leaves), np.flatnonzero(main >= 0)])
        instruction = np.concatenate([np.full(int(leaves.sum()), int(Instruction.LEAVE), np.int64), main[main >= 0]])
        order = np.argsort(by_slot[at], kind="stable")
        at, instruction = at[order], instruction[order]
        rows = gathered(frame, by_slot[at])
        gone = instruction >= Instruction.LEAVE
        both = pl.concat([moves.old, moves.new])
        foreign = gathered(both, np.where(gone, at, len(moves.slot) + at))
        columns = [
            *rows.select(self._step.key).get_columns(),
            *nulls_where(rows.select(self._values), gone).get_columns(),
            *foreign.get_columns(),
            *rows.select(*SYSTEM_COLUMNS).get_columns(),
            pl.Series(VERSION, versions[by_slot[at]]),
            pl.Series(INSTRUCTION, instruction, pl.Int8),
        ]
        return pl.DataFrame(columns).select(self._empty.columns)
