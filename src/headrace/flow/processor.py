"""Processors that users write, and the step that calls them.

Owns the base class `Processor`, what a call may use (`ProcessorContext`), and the step `process`.

- Rows of one key are processed one after the other, in the order of the task's input.
- Whatever a call does (rows, state, timers) happens whole when it returns, and not at all when it raises.
- The object is shared by all keys, and made anew in every process: what must last belongs into `context.state`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from headrace.flow.columns import combined_lineage, declared_column, not_null, require
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import OptionInvalid, TypeClash
from headrace.flow.group_types import check_group_types
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Duration
from headrace.flow.place import function_reference
from headrace.flow.repartitioning import by_group
from headrace.flow.steps import ProcessStep
from headrace.flow.values import Column, Place

Rows = Mapping[str, Any] | Iterable[Mapping[str, Any]] | None
"""What a call gives: one row, several, or none."""


class ProcessorContext(Protocol):
    """What a call of a `Processor` may use. Of no use once the call has returned."""

    @property
    def key(self) -> Mapping[str, Any]:
        """The key columns of this row or timer."""

    @property
    def time_ms(self) -> int:
        """Event time of the row, or the time for which the timer was set."""

    @property
    def stream_time_ms(self) -> int:
        """Largest event time so far. Of an event-time timer: its own time, or that of the row that set it too late."""

    @property
    def now_ms(self) -> int:
        """The wall clock. A replay reads another one, so results should not depend on it without need."""

    @property
    def timer(self) -> str:
        """The name of the timer that fires; empty in `on_row`."""

    state: Any
    """What is kept for the key: a value of JSON, at first None. Assign it, or change it in place; None removes it."""

    def at(self, time: int | datetime.datetime, name: str = "") -> None:
        """Fire when stream time reaches this event time (milliseconds, or a time with a zone).

        A key has one timer of each name: setting it again moves it.
        """

    def after(self, duration: Duration, name: str = "") -> None:
        """Fire this long from now by the wall clock, whether or not rows come."""

    def cancel(self, name: str = "") -> None:
        """Take back a timer that has not fired."""


class Processor:
    """Base of a user's processor: a subclass has `on_row`, and `on_timer` where it sets timers.

    class Reminders(hr.Processor):
        def on_row(self, row, context):
            context.state = {"order": row["order_id"]}
            context.at(row["placed_at"] + timedelta(hours=1))

        def on_timer(self, context):
            return {"order_id": context.state["order"], "reminded_at": context.time_ms}

    .process(Reminders(), by="customer", schema={"order_id": "string", "reminded_at": "long"})
    """

    state_version: ClassVar[str] = ""
    """Set it to say yourself when old state can no longer be used. Else it can not once the class's code changes."""

    def on_row(self, row: dict[str, Any], context: ProcessorContext) -> Rows:
        """Rows that follow from one row: a dict, several, or None."""
        return None

    def on_timer(self, context: ProcessorContext) -> Rows:
        """Rows that follow from a timer that fires."""
        return None


def process_draft(
    compilation: Compilation,
    draft: Draft,
    processor: Any,
    by: str | Sequence[str] | None,
    schema: Mapping[str, Any],
    place: Place,
) -> Draft:
    """The rows that a processor gives for the rows of each key."""
    _check_processor(processor, place)
    if not isinstance(schema, Mapping) or not schema:
        raise OptionInvalid(
            "process needs the columns of its result", place=place, cure='pass schema={"column": pl.Int64, ...}'
        )
    check_columns(schema, place)
    names = _by(by, draft, place)
    lineage = combined_lineage(draft.columns)
    columns = tuple(declared_column(name, given, place=place, lineage=lineage) for name, given in schema.items())
    keys = require(names, draft.columns, place)
    check_group_types(keys, place)
    moved = by_group(compilation, draft, names, place)
    reference = function_reference(processor, place)
    return compilation.add(
        ProcessStep,
        step_name("process", [type(processor).__name__, *names]),
        (moved,),
        moved.facts.unpartitioned().computed_anew(columns).influenced(lineage),
        place,
        functions={"": processor},
        by=names,
        function=reference,
        fingerprint=_fingerprint(keys, processor.state_version or reference.digest),
    )


def _check_processor(processor: Any, place: Place) -> None:
    if isinstance(processor, type):
        raise TypeClash(
            f"process needs an object, not the class {processor.__name__}",
            place=place,
            cure=f"pass {processor.__name__}()",
        )
    if not isinstance(processor, Processor):
        raise TypeClash(
            f"process needs an hr.Processor, not {type(processor).__name__}",
            place=place,
            cure="base the class on hr.Processor; for a function of one row use .map",
        )
    if type(processor).on_row is Processor.on_row:
        raise TypeClash(f"{type(processor).__name__} has no method on_row", place=place, cure="add it to the class")


def _by(by: str | Sequence[str] | None, draft: Draft, place: Place) -> tuple[str, ...]:
    names = (by,) if isinstance(by, str) else tuple(by or draft.facts.record_key)
    if not names:
        raise OptionInvalid("process needs a key", place=place, cure='name its columns: by="customer"')
    check_columns(names, place)
    return names


def _fingerprint(keys: Sequence[Column], code: str) -> str:
    """State is what the user's code makes of it: other code, other state."""
    meaning = {"by": [[column.name, not_null(column.type)] for column in keys], "code": code}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
