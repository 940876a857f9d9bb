"""What stateful steps do, in words.

Owns the texts of joins, windows and keyed steps for `explain`.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contracts.duration import format_duration
from headrace.flow.steps import (
    AnyStep,
    AsTableStep,
    BroadcastJoinStep,
    BufferedTableJoinStep,
    ChangesStep,
    DedupeStep,
    DropNullsStep,
    ExpireStep,
    ForeignMatchStep,
    ForeignResolveStep,
    ForeignSubscribeStep,
    LateStep,
    ProcessStep,
    RetractStep,
    StreamJoinStep,
    SuppressStep,
    TableJoinStep,
    TableTableJoinStep,
    TopNStep,
)
from headrace.flow.values import Window, WindowKind

Join = TableJoinStep | BufferedTableJoinStep | BroadcastJoinStep | StreamJoinStep | TableTableJoinStep


def stateful_text(step: AnyStep) -> str:
    """Joins, and steps that look at rows by key."""
    return _join(step) if isinstance(step, Join) else _keyed(step)


def _join(step: Join) -> str:
    added = ", ".join(step.renames.values()) or "nothing"
    return f"{step.how} join on {_pairs(step.on)} ({_when(step)}), adds {added}"


def _pairs(on: Sequence[tuple[str, str]]) -> str:
    return ", ".join(left if left == right else f"{left} = {right}" for left, right in on)


def _when(step: Join) -> str:
    match step:
        case TableJoinStep():
            return "as of the row's event time" if step.as_of else "latest"
        case BufferedTableJoinStep():
            return f"as of the row's event time, {format_duration(step.grace_ms)} later"
        case BroadcastJoinStep():
            return "latest, of all partitions"
        case StreamJoinStep():
            bounds = f"{format_duration(step.before_ms)} before to {format_duration(step.after_ms)} after"
            return f"{bounds}{_grace(step.grace_ms)}"
    return "table with table"


def window_text(window: Window) -> str:
    """A window: its size, grace and idle closing."""
    match window.kind:
        case WindowKind.SESSION:
            size = f"sessions with gaps of {format_duration(window.gap_ms)}"
        case WindowKind.HOPPING:
            size = f"windows of {format_duration(window.size_ms)} every {format_duration(window.advance_ms)}"
        case WindowKind.SLIDING:
            size = f"sliding windows of {format_duration(window.size_ms)}"
        case _:
            size = f"windows of {format_duration(window.size_ms)}"
    idle = f", closed after {format_duration(window.idle_close_ms)} without input" if window.idle_close_ms else ""
    return f"{size}{_grace(window.grace_ms)}{idle}"


def _grace(grace_ms: int) -> str:
    return f", grace {format_duration(grace_ms)}" if grace_ms else ""


def _keyed(step: AnyStep) -> str:
    match step:
        case DropNullsStep():
            return f"leave out rows with null in {', '.join(step.required)}"
        case ForeignSubscribeStep():
            return f"ask for the rows that {', '.join(step.foreign)} names"
        case ForeignMatchStep():
            return f"{step.how} join on {_pairs(step.on)}, adds {', '.join(step.renames.values()) or 'nothing'}"
        case ForeignResolveStep():
            return "keep the newest answer of each key"
        case RetractStep():
            return "take back what a key had, add what it has"
        case ChangesStep():
            return "changes of the table as a stream" + (f", deletions by {step.deleted}" if step.deleted else "")
        case AsTableStep():
            return "the latest row of each key" + (f", deleted where {step.deleted.text}" if step.deleted else "")
        case ExpireStep():
            return f"drop keys without a change for {format_duration(step.ttl_ms)}"
        case SuppressStep():
            return _suppress(step)
        case ProcessStep():
            return f"call {step.function.name} for each row by {', '.join(step.by)}"
        case DedupeStep():
            return f"leave out repeats of {', '.join(step.by)} within {format_duration(step.within_ms)}"
        case TopNStep():
            return _top_n(step)
        case LateStep():
            return "rows that came too late"
    raise AssertionError(f"{step.kind} has no text")


def _suppress(step: SuppressStep) -> str:
    limit = f" for {format_duration(step.limit_ms)}" if step.limit_ms is not None else ""
    rows = f", at most {step.rows_max} keys" if step.rows_max is not None else ""
    return f"hold changes back{limit}{rows}"


def _top_n(step: TopNStep) -> str:
    order = ", ".join(f"{name}{' descending' if descending else ''}" for name, descending in step.order)
    window = f" in {window_text(step.window)}" if step.window else ""
    return f"first {step.n} of {', '.join(step.group)}{window} by {order}"
