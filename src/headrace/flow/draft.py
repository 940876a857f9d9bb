"""Steps before they have names, and the compilation that they belong to.

Owns `Draft`, the facts known of the rows at each step, and `Compilation`, in which a pipeline function runs.

- Drafts are made in the order of the user's calls; inputs come before what reads them.
- `key` is what the rows are partitioned by (of a table: its primary key); `like` the topic whose keys are spread so.
  Both are lost, never guessed, when a column of the key is computed anew.
- `record_key` is what a record of these rows is called by when nobody says otherwise: repartitions for a join or an
  aggregate, which the user did not ask for, leave it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.contracts.contract import Contract, KeyEncoding, TopicKind
from headrace.flow.columns import columns_of, sorted_fields
from headrace.flow.errors import OptionInvalid, StepRefused, UnknownTopic
from headrace.flow.expressions import Resolved
from headrace.flow.names import step_name
from headrace.flow.steps import ProjectStep, SourceStep
from headrace.flow.values import Column, Emit, Messages, Place, SourceField, Step


@dataclass(frozen=True, slots=True)
class EventTime:
    """What is known of the event time that travels with the rows."""

    missing: tuple[str, ...] = ()
    """Topics among the sources whose contract does not say what event time is."""
    column: str | None = None
    """The column that still holds it."""
    lineage: tuple[SourceField, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the rows at a step."""

    columns: tuple[Column, ...]
    is_table: bool = False
    key: tuple[str, ...] = ()
    like: str | None = None
    string_partitions: int | None = None
    """Partitions of the topic that the rows are spread like, where its keys are plain texts."""
    own_hash: tuple[str, ...] = ()
    """Columns by whose values headrace's own hash spreads the rows; none where something else does, or is not known."""
    record_key: tuple[str, ...] = ()
    time: EventTime = EventTime()
    has_retractions: bool = False
    messages: Messages = ""
    influences: frozenset[SourceField] = frozenset()

    def influenced(self, fields: Iterable[SourceField]) -> Facts:
        return replace(self, influences=self.influences | frozenset(fields))

    def repartitioned(self, key: tuple[str, ...], like: str | None) -> Facts:
        return replace(self, key=key, like=like, string_partitions=None, own_hash=() if like else key)

    def keyed(self, record_key: tuple[str, ...]) -> Facts:
        return replace(self, record_key=record_key)

    def unpartitioned(self) -> Facts:
        return replace(self, key=(), like=None, string_partitions=None, own_hash=())

    def computed_anew(self, columns: tuple[Column, ...]) -> Facts:
        """After a user's function: nothing is known but the new columns and that event time travels along."""
        return replace(self, columns=columns, record_key=(), time=replace(self.time, column=None))

    def projected(self, expressions: Sequence[Resolved]) -> Facts:
        """After a step that computes exactly these."""
        copies: dict[str, str] = {}
        for each in expressions:
            if each.copies is not None:
                copies.setdefault(each.copies, each.name)
        key = _renamed(self.key, copies)
        known = replace(self, own_hash=_renamed(self.own_hash, copies)) if key else self.unpartitioned()
        time = replace(self.time, column=copies.get(self.time.column) if self.time.column else None)
        columns = tuple(each.column for each in expressions)
        return replace(known, columns=columns, key=key, record_key=_renamed(self.record_key, copies), time=time)


@dataclass(eq=False, slots=True)
class Draft:
    """One step. `fields` are those of its plan step that `Step` itself has not."""

    index: int
    type: type[Step]
    base_name: str
    inputs: tuple[Draft, ...]
    facts: Facts
    place: Place
    fields: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Any] = field(default_factory=dict)
    """The user's functions: the step's own by `""`, those of aggregates by their name."""
    explicit_name: str | None = None
    emit: Emit | None = None
    """Aggregates: what the sinks below ask for."""
    stays_table: bool = False
    """Aggregates whose final rows are changes of a table (`suppress`), not events."""
    part_of: tuple[Draft, str] | None = None
    """For a step that the user does not see: the one that they do, which may get a name, and what this is to it."""

    @property
    def made_name(self) -> str:
        """What the step is called where it was given no name itself."""
        if self.part_of is None or self.part_of[0].explicit_name is None:
            return self.base_name
        whole, part = self.part_of
        return f"{whole.explicit_name}_{part}"

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.facts.columns

    def above(self) -> Iterator[Draft]:
        """This draft and its first inputs, up to a source."""
        draft = self
        yield draft
        while draft.inputs:
            draft = draft.inputs[0]
            yield draft


class Compilation:
    """One run of a pipeline function.

    `declared` contracts are the user's; `derived` ones are of topics that other pipelines write, and only read here.
    """

    def __init__(self, declared: Mapping[str, Contract], derived: Mapping[str, Contract]) -> None:
        self.declared, self.derived = declared, derived
        self.drafts: list[Draft] = []
        self.sinks: list[Draft] = []
        self._sources: dict[tuple[str, str], Draft] = {}
        self.repartitions: dict[tuple[int, tuple[str, ...], str | None, tuple[str, ...]], Draft] = {}
        """Made for a join or an aggregate, by input, key, topic that they are like, and record key."""

    def add(
        self,
        step: type[Step],
        base_name: str,
        inputs: tuple[Draft, ...],
        facts: Facts,
        place: Place,
        *,
        functions: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Draft:
        draft = Draft(len(self.drafts), step, base_name, inputs, facts, place, fields, functions or {})
        self.drafts.append(draft)
        return draft

    def contract(self, topic: str, place: Place) -> Contract:
        found = self.declared.get(topic) or self.derived.get(topic)
        if found is None:
            raise UnknownTopic(topic, [*self.declared, *self.derived], place=place)
        return found

    def stream(self, topic: str, place: Place) -> Draft:
        """The source of a topic of events; asked twice, it is the same one."""
        contract = self.contract(topic, place)
        if contract.kind is not TopicKind.EVENT:
            raise StepRefused(
                f"{topic!r} is of kind {contract.kind.value}: its records are rows of a table, not events",
                place=place,
                cure=f"read it with hr.table({topic!r})",
            )
        return self._source(contract, place, "source")

    def table(self, topic: str, history_ms: int | None, place: Place) -> Draft:
        """The source of a topic that is a table; asked twice, it is the same one."""
        draft = self._source(self._table_contract(topic, place), place, "table")
        known_ms = draft.fields["history_ms"]
        if history_ms is not None and known_ms not in (None, history_ms):
            raise OptionInvalid(
                f"the history of {topic!r} is {known_ms} ms elsewhere in this pipeline, {history_ms} ms here",
                place=place,
                cure="give it the same history everywhere",
            )
        draft.fields = {**draft.fields, "history_ms": history_ms if history_ms is not None else known_ms}
        return draft

    def broadcast(self, topic: str, place: Place) -> Draft:
        """The source of a topic that is a table which every process reads whole; asked twice, it is the same one."""
        return self._source(self._table_contract(topic, place), place, "broadcast")

    def _table_contract(self, topic: str, place: Place) -> Contract:
        contract = self.contract(topic, place)
        if contract.kind is TopicKind.EVENT:
            raise StepRefused(
                f"{topic!r} is of kind event: nothing says that a later record replaces an earlier one",
                place=place,
                cure=f"read it with hr.stream({topic!r}), or declare kind: table in its contract",
            )
        if not contract.key:
            raise StepRefused(f"{topic!r} has no key, so it is no table", place=place, cure="add key: to its contract")
        return contract

    def _source(self, contract: Contract, place: Place, kind: str) -> Draft:
        """`kind`: source, table or broadcast."""
        known = self._sources.get((contract.topic, kind))
        if known is not None:
            return known
        draft = self.add(
            SourceStep,
            step_name(kind, [contract.topic.replace(".", "_")]),
            (),
            _source_facts(contract, is_table=kind != "source"),
            place,
            topic=contract.topic,
            topic_kind=contract.kind.value,
            time=contract.time,
            record_time=contract.record_time,
            time_ahead_max_ms=contract.time_ahead_max_ms,
            history_ms=None,
            is_broadcast=kind == "broadcast",
        )
        self._sources[contract.topic, kind] = draft
        return draft

    def project(self, draft: Draft, expressions: Sequence[Resolved], base_name: str, place: Place) -> Draft:
        """A step that computes exactly `expressions`. A table keeps its key."""
        facts = draft.facts.projected(expressions)
        if draft.facts.is_table and not facts.key:
            raise StepRefused(
                f"a table keeps its key, and this loses {', '.join(draft.facts.key)}",
                place=place,
                cure=f"keep the columns {', '.join(draft.facts.key)} as they are; they may be renamed",
            )
        return self.add(
            ProjectStep, base_name, (draft,), facts, place, expressions=tuple(each.named for each in expressions)
        )


def _source_facts(contract: Contract, *, is_table: bool) -> Facts:
    columns = columns_of(contract)
    lineage = (SourceField(topic=contract.topic, field=contract.time),) if contract.time else ()
    missing = () if contract.time or contract.record_time else (contract.topic,)
    has_text_key = contract.key_encoding is KeyEncoding.STRING and len(contract.key) == 1
    return Facts(
        columns=columns,
        is_table=is_table,
        key=contract.key,
        like=contract.topic if contract.key else None,
        string_partitions=contract.partitions if has_text_key else None,
        record_key=contract.key,
        time=EventTime(missing, contract.time, lineage),
    )


def _renamed(names: Sequence[str], copies: Mapping[str, str]) -> tuple[str, ...]:
    """The names after a step, or nothing when one is gone."""
    return tuple(copies[name] for name in names) if all(name in copies for name in names) else ()


def merged_time(times: Sequence[EventTime]) -> EventTime:
    """The event time of rows that come from several inputs."""
    missing = tuple(dict.fromkeys(topic for time in times for topic in time.missing))
    columns = {time.column for time in times}
    column = columns.pop() if len(columns) == 1 else None
    return EventTime(missing, column, sorted_fields(each for time in times for each in time.lineage))


_CURRENT: ContextVar[Compilation | None] = ContextVar("headrace_compilation", default=None)


def current_compilation(place: Place, what: str) -> Compilation:
    """The compilation in whose pipeline function the user's call stands."""
    compilation = _CURRENT.get()
    if compilation is None:
        raise StepRefused(
            f"{what} stands outside a pipeline", place=place, cure="call it in a function under @hr.pipeline(...)"
        )
    return compilation


@contextmanager
def compiling(compilation: Compilation) -> Iterator[Compilation]:
    """Makes it the current one."""
    token = _CURRENT.set(compilation)
    try:
        yield compilation
    finally:
        _CURRENT.reset(token)
