"""Writing to a derived topic.

Owns what a sink's arguments must fit. `derived` makes the topic's contract of it.

- A sink writes a topic of its own, which the pipeline does not read.
- A table's records are keyed by its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from headrace.contracts.contract import KeyEncoding, TopicKind
from headrace.flow.columns import dtype_of, require
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import NothingWritten, OptionInvalid, TopicConflict, TypeClash
from headrace.flow.names import check_step_name, check_topic_name, step_name
from headrace.flow.place import caller_place
from headrace.flow.repartitioning import before_rekey
from headrace.flow.steps import AggregateStep, ForeignResolveStep, SinkStep, SourceStep, TableTableJoinStep, TopNStep
from headrace.flow.values import Emit, Place


@dataclass(eq=False, frozen=True, slots=True)
class Sink:
    """What `.to(...)` returns; a pipeline function may return it, or several."""

    draft: Draft

    def named(self, name: str) -> Sink:
        """Name the sink's step."""
        self.draft.explicit_name = check_step_name(name, caller_place())
        return self


def add_sink(
    compilation: Compilation,
    draft: Draft,
    topic: str,
    place: Place,
    *,
    emit: str | None,
    key: tuple[str, ...] | None,
    key_encoding: str | None,
    kind: str | None,
    description: str | None,
) -> Sink:
    """Register a sink below `draft`."""
    check_topic_name(topic, place)
    if draft.type is SourceStep:
        raise NothingWritten(
            f"this only copies {draft.fields['topic']!r} to {topic!r}",
            place=place,
            cure=f"read {draft.fields['topic']!r} directly, or put a step between",
        )
    other = next((sink for sink in compilation.sinks if sink.fields["topic"] == topic), None)
    if other is not None:
        raise TopicConflict(
            f"{topic!r} is written by line {other.place.line} already",
            place=place,
            cure="merge the streams first, or write to another topic",
        )
    _ask_to_emit(draft, emit, place)
    chosen = _key(draft, key, place)
    declared = compilation.declared.get(topic)
    encoding = key_encoding or (declared.key_encoding.value if declared else KeyEncoding.AVRO.value)
    _check_encoding(draft, encoding, chosen, place)
    sink = compilation.add(
        SinkStep,
        step_name("sink", [topic.replace(".", "_")]),
        (before_rekey(draft),),
        draft.facts.keyed(chosen),
        place,
        topic=topic,
        key_encoding=encoding,
        wanted_kind=_kind(draft, kind, chosen, place),
        description=description,
    )
    compilation.sinks.append(sink)
    return Sink(sink)


_AGGREGATES = (AggregateStep, TopNStep)
_JOINS = (TableTableJoinStep, ForeignResolveStep)


def aggregate_above(draft: Draft) -> Draft | None:
    """The aggregate whose rows these are, through steps that keep them a table. A join's rows are its own."""
    if not draft.facts.is_table:
        return None
    first = next((each for each in draft.above() if each.type in (*_AGGREGATES, *_JOINS)), None)
    return first if first is not None and first.type in _AGGREGATES else None


def _ask_to_emit(draft: Draft, emit: str | None, place: Place) -> None:
    """Tell the aggregate above when to speak; all sinks below it must agree."""
    aggregate = aggregate_above(draft)
    if emit is None:
        return
    if emit not in {each.value for each in Emit}:
        raise OptionInvalid(f"emit is {emit!r}", place=place, cure='use "final" or "updates"')
    if aggregate is None:
        raise OptionInvalid("emit is for the results of an aggregate", place=place, cure="leave it out")
    wanted = Emit(emit)
    if wanted is Emit.FINAL and aggregate.fields["window"] is None:
        raise OptionInvalid(
            'emit="final" needs a window: without one, a group is never finished',
            place=place,
            cure='use emit="updates", or add .window(...)',
        )
    if aggregate.emit not in (None, wanted):
        raise OptionInvalid(
            "two sinks of one aggregate differ in emit", place=place, cure="aggregate twice, or give both the same"
        )
    aggregate.emit = wanted


def _key(draft: Draft, key: tuple[str, ...] | None, place: Place) -> tuple[str, ...]:
    facts = draft.facts
    if key is None:
        return facts.key if facts.is_table else facts.record_key
    require(key, draft.columns, place)
    if len(set(key)) < len(key):
        raise OptionInvalid("a column stands twice in key", place=place, cure="name each once")
    if facts.is_table and key != facts.key:
        raise OptionInvalid(
            f"this table's key is {', '.join(facts.key)}", place=place, cure="leave key out, or give just that"
        )
    return key


def _check_encoding(draft: Draft, encoding: str, key: tuple[str, ...], place: Place) -> None:
    if encoding not in {each.value for each in KeyEncoding}:
        raise OptionInvalid(f"key_encoding is {encoding!r}", place=place, cure='use "avro" or "string"')
    if encoding != KeyEncoding.STRING.value:
        return
    columns = require(key, draft.columns, place)
    if len(columns) != 1 or not isinstance(dtype_of(columns[0]), pl.String | pl.Enum):
        raise TypeClash(
            'key_encoding="string" needs a key of exactly one text column', place=place, cure="use the Avro encoding"
        )


def _kind(draft: Draft, kind: str | None, key: tuple[str, ...], place: Place) -> str | None:
    if kind is None:
        return None
    if kind not in (TopicKind.EVENT.value, TopicKind.TABLE.value):
        raise OptionInvalid(f"kind is {kind!r}", place=place, cure='use "event" or "table"')
    if kind == TopicKind.TABLE.value and not key:
        raise OptionInvalid("a topic of kind table needs a key", place=place, cure="add key=")
    if kind == TopicKind.EVENT.value and draft.facts.is_table and not is_final(draft):
        raise OptionInvalid(
            "these rows replace each other, so they are no events",
            place=place,
            cure='use emit="final", or kind="table"',
        )
    return kind


def is_final(draft: Draft) -> bool:
    """Whether each row comes once: the windows of an aggregate, when closed."""
    aggregate = aggregate_above(draft)
    return aggregate is not None and aggregate.emit is Emit.FINAL


def kind_of(draft: Draft) -> TopicKind:
    """The kind of the topic that a sink draft writes."""
    wanted: Any = draft.fields["wanted_kind"]
    if wanted is not None:
        return TopicKind(wanted)
    above = draft.inputs[0]
    aggregate = aggregate_above(above)
    replaces = not is_final(above) or (aggregate is not None and aggregate.stays_table)
    return TopicKind.TABLE if above.facts.is_table and replaces else TopicKind.EVENT
