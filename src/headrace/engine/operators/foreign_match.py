"""Middle third of a foreign-key join: subscriptions meet the right table.

Owns, in the task of the right key, the right table's rows and the left rows that are subscribed to them.

- Both sides trigger: a subscription is answered from the right row as it is, a change of a right row goes out to all
  its subscriptions. What is due is answered at the flush, once per left key, with both rows as they are then.
- `TIME` of an answer is the larger of the last record's and that of the other side's row, if there is one.
- A subscription is kept until its left key leaves or is deleted; one without a foreign key (left join) until it is
  answered. A right row is kept whether or not anything is subscribed to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import polars as pl

from headrace.engine.operator import (
    DELETED,
    INSTRUCTION,
    PARTITION,
    SEQUENCE,
    STREAM_TIME,
    TIME,
    VERSION,
    OperatorContext,
    StateChange,
    system_schema,
)
from headrace.engine.operators.foreign_intervals import PRIOR, Intervals, RightRows, due
from headrace.engine.operators.foreign_key import Instruction
from headrace.engine.operators.null_keys import with_keys
from headrace.engine.operators.pending import Pending, Touched
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.operators.table_rows import OUT_OF_ORDER, nulls_where, system_columns
from headrace.engine.operators.turns import last_of_runs, not_older
from headrace.engine.state.arrays import NO_INTS, Hashes, Ints, distinct, hash_frame
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.state.row_store import equal_rows, gathered
from headrace.engine.state.slot_hints import SlotHints
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.steps import ForeignMatchStep, foreign_columns

Schema = Mapping[str, pl.DataType]

_ALIVE, _TIME, _VERSION = "alive", "time_ms", "version"
_KNOWN = "known"
"""Right rows: there was one, and its time is known (tables with history)."""
HINTS_MIN = 4_096
"""Fewer hints are never put in order."""
HINTS_PER_SUBSCRIPTION = 4
"""More, and those that are out of date are dropped."""


class ForeignMatch(StoreOperator):
    """`subscriptions` and `right`: columns of both inputs; `right_at_flush`: the right table comes out of a flush."""

    speaks_at_flush: ClassVar[bool] = True

    def __init__(
        self, step: ForeignMatchStep, subscriptions: Schema, right: Schema, *, right_at_flush: bool = False
    ) -> None:
        self._step, self._right_at_flush = step, right_at_flush
        self._is_left = step.how == "left"
        self._right_key = [theirs for _, theirs in step.on]
        self._foreign = foreign_columns(len(step.on))
        self._right_values = {name: dtype for name, dtype in right.items() if name in step.renames}
        self._left_values = [name for name in subscriptions if name not in {*step.key, *self._foreign}]
        left = {name: subscriptions[name] for name in [*self._left_values, *self._foreign]}
        self._subscriptions = KeyedRows(
            {name: subscriptions[name] for name in step.key}, left, (_ALIVE, _VERSION, _TIME)
        )
        self._rights = KeyedRows(
            {name: right[name] for name in self._right_key}, self._right_values, (_ALIVE, _KNOWN, _TIME)
        )
        self._pending = Pending()
        self._seen: tuple[list[Ints], list[Ints]] = ([], [])
        """Slots of subscriptions and of right rows that were looked at since the last flush."""
        self._hints: SlotHints | None = None
        """Subscriptions by foreign key; made from the state when first needed after a restore."""
        types = {**subscriptions, **{output: right[name] for name, output in step.renames.items()}}
        schema = {**{column.name: types[column.name] for column in step.columns}, **system_schema(step)}
        super().__init__({"subscriptions": self._subscriptions, "rights": self._rights}, pl.DataFrame(schema=schema))

    # Rows in

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Take messages and changes in. They are answered at the flush."""
        messages, changes = inputs[0], with_keys(inputs[1], self._right_key, context, input_index=1)
        if not messages.height and not changes.height:
            return self._empty
        rights, _ = self._rights.upsert(changes) if changes.height else (NO_INTS, NO_INTS)
        if self._step.versioned and changes.height:
            changes, rights = self._in_order(changes, rights, context)
        slots, _ = self._subscriptions.upsert(messages) if messages.height else (NO_INTS, NO_INTS)
        self._seen[0].append(slots)
        self._seen[1].append(rights)
        places = self._places(messages, changes)
        intervals = self._intervals(messages, slots, places[: messages.height], changes, rights)
        right_rows = self._right_rows(changes, rights, places[messages.height :], len(places))
        found = due(intervals, right_rows, is_left=self._is_left)
        if len(found.left):
            self._pending.keep(lambda pending: ~np.isin(pending, found.left))
        self._pending.add(found.touched)
        self._put_messages(messages, slots)
        self._put_rights(changes, rights)
        return self._empty

    def _in_order(self, changes: pl.DataFrame, rights: Ints, context: OperatorContext) -> tuple[pl.DataFrame, Ints]:
        """The right rows that are not older than the newest of their key."""
        newest = np.where(self._rights[_KNOWN][rights] == 1, self._rights[_TIME][rights], BEFORE_ALL_MS)
        kept = not_older(rights, changes[TIME].to_numpy(), newest)
        context.count_dropped(OUT_OF_ORDER, int(np.count_nonzero(~kept)))
        return changes.filter(pl.Series(kept)), rights[kept]

    def _places(self, messages: pl.DataFrame, changes: pl.DataFrame) -> Ints:
        """The place of each row in the order of all, messages first."""
        sequence = np.concatenate([messages[SEQUENCE].to_numpy(), changes[SEQUENCE].to_numpy()])
        at_flush = np.zeros(len(sequence), np.bool_)
        at_flush[messages.height :] = self._right_at_flush
        # Of equal numbers, messages come first: the sort is stable.
        order = np.lexsort((sequence, at_flush))
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return places

    def _intervals(
        self, messages: pl.DataFrame, slots: Ints, places: Ints, changes: pl.DataFrame, rights: Ints
    ) -> Intervals:
        """What was subscribed before, where it matters now, and what the messages say."""
        prior = np.unique(np.concatenate([slots, self._subscribers(changes, rights)]))
        prior = prior[self._subscriptions[_ALIVE][prior] == 1]
        before = self._rights_of(self._subscriptions.values(prior), self._subscriptions["partition"][prior])
        now = self._rights_of(messages, messages[PARTITION].to_numpy())
        slot = np.concatenate([prior, slots])
        place = np.concatenate([np.full(len(prior), PRIOR, np.int64), places])
        order = np.lexsort((place, slot))
        columns = (
            (before, now),
            (np.full(len(prior), PRIOR, np.int64), messages[INSTRUCTION].to_numpy().astype(np.int64)),
            (self._subscriptions[_TIME][prior], messages[TIME].to_numpy()),
            (np.full(len(prior), BEFORE_ALL_MS, np.int64), messages[STREAM_TIME].to_numpy()),
        )
        return Intervals(slot[order], place[order], *(np.concatenate(each)[order] for each in columns))

    def _rights_of(self, frame: pl.DataFrame, partitions: Ints) -> Ints:
        """The right slot of each row's foreign key, -1 where there is none."""
        keys = frame.select(pl.col(mine).alias(theirs) for mine, theirs in self._pairs())
        slots = self._rights.find(keys.with_columns(pl.Series(PARTITION, partitions, pl.Int32)))
        slots[keys.to_series(0).is_null().to_numpy()] = -1
        return slots

    def _pairs(self) -> list[tuple[str, str]]:
        return list(zip(self._foreign, self._right_key, strict=True))

    def _right_rows(self, changes: pl.DataFrame, rights: Ints, places: Ints, count: int) -> RightRows:
        order = np.lexsort((places, rights))
        return RightRows(
            rights[order],
            places[order],
            changes[TIME].to_numpy()[order],
            changes[STREAM_TIME].to_numpy()[order],
            ~changes[DELETED].to_numpy()[order],
            self._rights[_ALIVE],
            self._rights[_TIME],
            count,
        )

    # Subscriptions by foreign key

    def _subscribers(self, changes: pl.DataFrame, rights: Ints) -> Ints:
        """All subscriptions to these right rows."""
        if not len(rights):
            return NO_INTS
        if self._hints is None:
            self._hints = SlotHints()
            self._renew_hints()
        asked = self._rights.keys(distinct(rights))
        asked = asked.select(pl.col(theirs).alias(mine) for mine, theirs in self._pairs())
        partitions = self._rights["partition"][distinct(rights)]
        rows, slots = self._hints.find(_hashes(asked, partitions))
        live = self._subscriptions.is_live(slots)
        rows, slots = rows[live], slots[live]
        meant = (self._subscriptions[_ALIVE][slots] == 1) & (
            self._subscriptions["partition"][slots] == partitions[rows]
        )
        rows, slots = rows[meant], slots[meant]
        same = equal_rows(self._subscriptions.values(slots).select(self._foreign), gathered(asked, rows))
        found: Ints = slots[same]
        return found

    def _renew_hints(self) -> None:
        assert self._hints is not None, "there are hints"
        slots = self._subscriptions.live()
        slots = slots[self._subscriptions[_ALIVE][slots] == 1]
        foreign = self._subscriptions.values(slots).select(self._foreign)
        self._hints.replace(_hashes(foreign, self._subscriptions["partition"][slots]), slots)

    # State

    def _put_messages(self, messages: pl.DataFrame, slots: Ints) -> None:
        """Keep what the last message of each left key says."""
        order = np.argsort(slots, kind="stable")
        rows = order[last_of_runs(slots[order])]
        named, kept = slots[rows], gathered(messages, rows)
        self._subscriptions.touch(named)
        subscribed = kept[INSTRUCTION].to_numpy() < Instruction.LEAVE
        self._subscriptions[_ALIVE][named] = subscribed
        self._subscriptions[_VERSION][named] = kept[VERSION].to_numpy()
        self._subscriptions[_TIME][named] = kept[TIME].to_numpy()
        self._subscriptions.set_values(named, kept)
        if self._hints is not None:
            has = subscribed & kept[self._foreign[0]].is_not_null().to_numpy()
            foreign = kept.filter(pl.Series(has))
            hashes = _hashes(foreign.select(self._foreign), foreign[PARTITION].to_numpy())
            self._hints.add(hashes, named[has])

    def _put_rights(self, changes: pl.DataFrame, rights: Ints) -> None:
        """Keep the last row of each right key."""
        order = np.argsort(rights, kind="stable")
        rows = order[last_of_runs(rights[order])]
        named, kept = rights[rows], gathered(changes, rows)
        self._rights.touch(named)
        self._rights[_ALIVE][named] = ~kept[DELETED].to_numpy()
        self._rights[_KNOWN][named] = 1
        self._rights[_TIME][named] = kept[TIME].to_numpy()
        if self._right_values:
            self._rights.set_values(named, kept)

    # Rows out

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """The answers that are due."""
        touched = self._pending.take()
        output = self._answers(touched) if len(touched) else self._empty
        self._drop_unused()
        return output

    def _answers(self, touched: Touched) -> pl.DataFrame:
        slots = touched.slot
        subscribed = self._subscriptions[_ALIVE][slots] == 1
        mine = self._subscriptions.values(slots)
        partition = self._subscriptions["partition"][slots]
        rights = np.where(subscribed, self._rights_of(mine, partition), -1)
        found = (rights >= 0) & (self._rights[_ALIVE][rights] == 1)
        theirs = self._rights.values(np.where(found, rights, -1)).rename(dict(self._step.renames))
        has = subscribed if self._is_left else found
        columns = [
            *self._subscriptions.keys(slots).get_columns(),
            *nulls_where(mine.select(self._left_values), ~has).get_columns(),
            *(theirs.get_columns() if self._right_values else ()),
            *system_columns(partition, touched.time_ms, touched.stream_time_ms, ~has),
            pl.Series(VERSION, self._subscriptions[_VERSION][slots]),
        ]
        return pl.DataFrame(columns).select(self._empty.columns)

    # Rows for people who ask

    def held_rows_of(self, side: int, keys: pl.DataFrame) -> pl.DataFrame:
        """The right table's rows of these keys."""
        slots = self._rights.find(keys)
        return self._shown(slots[slots >= 0])

    def some_held_rows(self, side: int, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of the right table."""
        slots = self._rights.live(partition)
        return self._shown(slots[self._rights[_ALIVE][slots] == 1][:rows_max])

    def _shown(self, slots: Ints) -> pl.DataFrame:
        slots = slots[self._rights[_ALIVE][slots] == 1]
        columns = [*self._rights.keys(slots).get_columns(), *self._rights.values(slots).get_columns()]
        return pl.DataFrame([*columns, pl.Series(PARTITION, self._rights["partition"][slots], pl.Int32)])

    def _drop_unused(self) -> None:
        """Forget left keys that are not subscribed any more (or to nothing), and right keys without a row."""
        slots = distinct(np.concatenate([NO_INTS, *self._seen[0]]))
        without = self._subscriptions.values(slots)[self._foreign[0]].is_null().to_numpy()
        self._subscriptions.drop(slots[(self._subscriptions[_ALIVE][slots] == 0) | without])
        if not self._step.versioned:
            rights = distinct(np.concatenate([NO_INTS, *self._seen[1]]))
            self._rights.drop(rights[self._rights[_ALIVE][rights] == 0])
        self._seen = ([], [])

    # Commit, undo, moves

    def apply(self, change: StateChange) -> None:
        """Restore one message."""
        super().apply(change)
        self._hints = None

    def commit(self) -> None:
        """The changes since the last commit are durable."""
        super().commit()
        many = max(HINTS_MIN, HINTS_PER_SUBSCRIPTION * len(self._subscriptions))
        if self._hints is not None and len(self._hints) > many:
            self._renew_hints()

    def rollback(self) -> None:
        """Back to the last commit."""
        super().rollback()
        self._pending.clear()
        self._seen = ([], [])

    def forget(self, partition: int) -> None:
        """Drop a partition."""
        self._pending.keep(lambda slots: self._subscriptions["partition"][slots] != partition)
        for store, seen in zip((self._subscriptions, self._rights), self._seen, strict=True):
            seen[:] = [slots[store["partition"][slots] != partition] for slots in seen]
        super().forget(partition)

    def state_bytes(self) -> int:
        """Memory held, about."""
        return super().state_bytes() + (0 if self._hints is None else self._hints.bytes)


def _hashes(foreign: pl.DataFrame, partitions: Ints) -> Hashes:
    """Of foreign keys in their partitions."""
    return hash_frame(foreign.with_columns(pl.Series(PARTITION, partitions, pl.Int32)))
