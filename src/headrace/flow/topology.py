"""From drafts to a plan.

Owns step names, the cut into subtopologies and their order.

1. Drafts that no sink needs are left out.
2. Drafts joined by anything but a repartition are one subtopology; so are the readers of one repartition topic,
   unless that would make a subtopology read what it writes.
3. A table that is only looked up is read anew in every subtopology that joins it, so that lookups never tie
   subtopologies together. So is a table that is joined to another one, where subtopologies would wait for each other
   otherwise.
4. Subtopologies are ordered so that each reads only what earlier ones write.
5. Steps get their names: the user's first, then those made up, in the order of the user's calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from headrace.flow.derived import derived_topic, sink_columns
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import NameInvalid, StepRefused, TopicConflict
from headrace.flow.names import TOPIC_NAME_CHARACTERS_MAX, StepNames
from headrace.flow.pipeline import Pipeline
from headrace.flow.plan import CompiledPipeline, DerivedTopic, Plan, Subtopology, aggregator_key
from headrace.flow.provenance import ambiguous, upstream_digest
from headrace.flow.steps import (
    AggregateStep,
    AnyStep,
    ChangesStep,
    ForeignMatchStep,
    ForeignSubscribeStep,
    LookupJoinStep,
    MergeStep,
    RepartitionStep,
    SinkStep,
    SourceStep,
    TableTableJoinStep,
    TopNStep,
)
from headrace.flow.suppression import windows_above
from headrace.flow.values import Emit, StatefulStep, Window, WindowKind


@dataclass(eq=False, slots=True)
class _Group:
    """The drafts of one subtopology, tables that it looks up included."""

    drafts: list[Draft]
    index: int = -1


def plan_of(pipeline: Pipeline, compilation: Compilation) -> CompiledPipeline:
    """The plan of a pipeline whose function has run."""
    _check_topics(compilation.sinks)
    drafts = _reachable(compilation.sinks)
    groups = (
        _ordered(_groups(drafts, together=True))
        or _ordered(_groups(drafts, together=False))
        or _ordered(_groups(drafts, together=False, anew=True))
    )
    if groups is None:
        _refuse_loop(drafts)
    names = _names(pipeline, groups)
    unclear = ambiguous(drafts)
    outputs = {sink: _output(pipeline, compilation, sink) for sink in compilation.sinks}
    steps: list[AnyStep] = []
    functions: dict[str, Any] = {}
    for group in groups:
        for draft in group.drafts:
            name = names[group.index, draft]
            step = _step(pipeline, draft, name, _inputs(draft, group, groups, names), outputs.get(draft))
            steps.append(_told_apart(step, draft) if draft in unclear else step)
            for suffix, function in draft.functions.items():
                functions[aggregator_key(name, suffix) if suffix else name] = function
    plan = Plan(
        name=pipeline.name,
        owner=pipeline.owner,
        description=pipeline.description,
        place=pipeline.place,
        delivery=pipeline.delivery,
        commit_interval_ms=pipeline.commit_interval_ms,
        steps=tuple(steps),
        subtopologies=tuple(_subtopology(group, groups, names, steps) for group in groups),
        outputs=tuple(outputs.values()),
    )
    return CompiledPipeline(plan, functions)


def _output(pipeline: Pipeline, compilation: Compilation, sink: Draft) -> DerivedTopic:
    declared = compilation.declared.get(sink.fields["topic"])
    return derived_topic(sink, declared, owner=pipeline.owner, description=pipeline.description)


def _check_topics(sinks: Sequence[Draft]) -> None:
    read = {draft.fields["topic"] for draft in _reachable(sinks) if draft.type is SourceStep}
    for sink in sinks:
        if sink.fields["topic"] in read:
            raise TopicConflict(
                f"{sink.fields['topic']!r} is read by this pipeline, so it cannot be written by it",
                place=sink.place,
                cure="write to another topic",
            )


def _reachable(sinks: Iterable[Draft]) -> list[Draft]:
    found: set[Draft] = set()
    waiting = list(sinks)
    while waiting:
        draft = waiting.pop()
        if draft not in found:
            found.add(draft)
            waiting.extend(draft.inputs)
    return sorted(found, key=lambda draft: draft.index)


def _own_tables(draft: Draft, *, anew: bool) -> tuple[Draft, ...]:
    """Inputs that are read in each subtopology for itself: tables that are only looked up, and with `anew` those that
    are joined to other tables."""
    if issubclass(draft.type, LookupJoinStep):
        return draft.inputs[1:]
    if anew and draft.type in (TableTableJoinStep, ForeignSubscribeStep, ForeignMatchStep):
        return tuple(each for each in draft.inputs if _is_topic(each))
    return ()


def _is_topic(table: Draft) -> bool:
    """Whether a table is a topic's, but for steps that keep nothing."""
    return not any(issubclass(each.type, StatefulStep | RepartitionStep) for each in table.above())


def _main_inputs(draft: Draft, *, anew: bool) -> tuple[Draft, ...]:
    """All inputs but those that are read in each subtopology for itself."""
    own = _own_tables(draft, anew=anew)
    return tuple(each for each in draft.inputs if each not in own)


def _groups(drafts: Sequence[Draft], *, together: bool, anew: bool = False) -> list[_Group]:
    """`together`: readers of one repartition are in one group. `anew`: see `_own_tables`."""
    main = _reached([draft for draft in drafts if draft.type is SinkStep], anew=anew)
    group_of: dict[Draft, _Group] = {}
    reader_of: dict[Draft, Draft] = {}
    for draft in drafts:
        if draft not in main:
            continue  # A table that is only looked up.
        inputs = _main_inputs(draft, anew=anew)
        neighbours = [each for each in inputs if each.type is not RepartitionStep]
        if together:
            read = [each for each in inputs if each.type is RepartitionStep]
            neighbours += [reader_of[each] for each in read if each in reader_of]
            reader_of |= dict.fromkeys(read, draft)
        joined = {id(group_of[each]): group_of[each] for each in neighbours}
        group = _Group([each for group in joined.values() for each in group.drafts])
        group.drafts.append(draft)
        for each in group.drafts:
            group_of[each] = group
    groups = list({id(group): group for group in group_of.values()}.values())
    for group in groups:
        tables = [table for draft in group.drafts for table in _own_tables(draft, anew=anew)]
        chains = {each for table in tables for each in table.above()}
        group.drafts = sorted({*group.drafts, *chains}, key=lambda draft: draft.index)
    return groups


def _reached(sinks: Iterable[Draft], *, anew: bool) -> set[Draft]:
    """Drafts that belong to one subtopology."""
    found: set[Draft] = set()
    waiting = list(sinks)
    while waiting:
        draft = waiting.pop()
        if draft not in found:
            found.add(draft)
            waiting.extend(_main_inputs(draft, anew=anew))
    return found


def _writer(repartition: Draft, groups: Sequence[_Group]) -> _Group:
    return next(group for group in groups if repartition in group.drafts)


def _repartitions_read(group: _Group) -> list[Draft]:
    found = [each for draft in group.drafts for each in draft.inputs if each.type is RepartitionStep]
    return list(dict.fromkeys(found))


def _ordered(groups: list[_Group]) -> list[_Group] | None:
    """Writers before readers, else as the user wrote them, and numbered; None when groups wait for each other."""
    waiting = sorted(groups, key=lambda group: group.drafts[0].index)
    ordered: list[_Group] = []
    while waiting:
        ready = (
            group for group in waiting if all(_writer(each, groups) in ordered for each in _repartitions_read(group))
        )
        chosen = next(ready, None)
        if chosen is None:
            return None
        chosen.index = len(ordered)
        ordered.append(chosen)
        waiting.remove(chosen)
    return ordered


def _refuse_loop(drafts: Sequence[Draft]) -> NoReturn:
    place = next((draft.place for draft in drafts if draft.type is MergeStep), drafts[0].place)
    raise StepRefused(
        "a merge here takes rows both from before and from after they are moved to another key",
        place=place,
        cure=".rekey(...) each of the merged streams in the same way first",
    )


def _names(pipeline: Pipeline, groups: Sequence[_Group]) -> dict[tuple[int, Draft], str]:
    instances = sorted(
        ((group.index, draft) for group in groups for draft in group.drafts), key=lambda each: (each[1].index, each[0])
    )
    given, names = StepNames(), {}
    seen: set[Draft] = set()
    for index, draft in instances:
        if draft.explicit_name is not None and draft not in seen:
            names[index, draft] = given.reserve(draft.explicit_name, draft.place)
            seen.add(draft)
    for index, draft in instances:
        if (index, draft) not in names:
            names[index, draft] = given.give(draft.explicit_name or draft.made_name)
    for (_, draft), name in names.items():
        if _suffix(draft) and len(_internal(pipeline, name, draft)) > TOPIC_NAME_CHARACTERS_MAX:
            raise NameInvalid(
                f"the topic {_internal(pipeline, name, draft)!r} would have too long a name",
                place=draft.place,
                cure="give the step a shorter one: .named(...)",
            )
    return names


def _suffix(draft: Draft) -> str | None:
    """Of the internal topic that a step has."""
    if draft.type is RepartitionStep:
        return "repartition"
    return "changelog" if issubclass(draft.type, StatefulStep) else None


def _internal(pipeline: Pipeline, name: str, draft: Draft) -> str:
    return f"{pipeline.name}.{name}.{_suffix(draft)}"


def _inputs(
    draft: Draft, group: _Group, groups: Sequence[_Group], names: dict[tuple[int, Draft], str]
) -> tuple[str, ...]:
    return tuple(
        names[(_writer(each, groups) if each.type is RepartitionStep else group).index, each] for each in draft.inputs
    )


def _step(pipeline: Pipeline, draft: Draft, name: str, inputs: tuple[str, ...], output: DerivedTopic | None) -> AnyStep:
    fields = dict(draft.fields)
    columns, key = draft.columns, draft.facts.key
    if draft.type is RepartitionStep:
        fields["topic"] = _internal(pipeline, name, draft)
    elif issubclass(draft.type, StatefulStep):
        fields["changelog"] = _internal(pipeline, name, draft)
        if draft.type in (AggregateStep, TopNStep):
            fields["emit"] = draft.emit or Emit.UPDATES
    elif draft.type is ChangesStep:
        fields["is_final"] = _speaks_once(draft.inputs[0])
    elif output is not None:
        fields = {"topic": output.topic, "key_encoding": output.key_encoding}
        columns, key = sink_columns(draft, output), output.key
    step: Any = draft.type(
        name=name,
        inputs=inputs,
        columns=columns,
        is_table=draft.facts.is_table,
        key=key,
        place=draft.place,
        has_retractions=draft.facts.has_retractions,
        messages=draft.facts.messages,
        **fields,
    )
    return step  # type: ignore[no-any-return]


def _speaks_once(table: Draft) -> bool:
    """Whether these are results of windows of a fixed length that come when the window closes."""
    windows = windows_above(table)
    if windows is None or windows.emit is not Emit.FINAL:
        return False
    window: Window = windows.fields["window"]
    return window.kind is not WindowKind.SESSION


def _told_apart(step: AnyStep, draft: Draft) -> AnyStep:
    """A step whose name has a number: its state is of what it stands below, too."""
    assert isinstance(step, StatefulStep)
    meaning = hashlib.sha256(f"{step.fingerprint} {upstream_digest(draft)}".encode()).hexdigest()
    return step.model_copy(update={"fingerprint": meaning})


def _subtopology(
    group: _Group, groups: Sequence[_Group], names: dict[tuple[int, Draft], str], steps: Sequence[AnyStep]
) -> Subtopology:
    by_name = {step.name: step for step in steps}
    own = [by_name[names[group.index, draft]] for draft in group.drafts]
    repartitions = [by_name[names[_writer(each, groups).index, each]] for each in _repartitions_read(group)]
    sources = [step.topic for step in own if isinstance(step, SourceStep) and not step.is_broadcast]
    return Subtopology(
        index=group.index,
        steps=tuple(step.name for step in own),
        reads=_once([*sources, *(step.topic for step in repartitions if isinstance(step, RepartitionStep))]),
        broadcasts=_once(step.topic for step in own if isinstance(step, SourceStep) and step.is_broadcast),
        writes=_once(step.topic for step in own if isinstance(step, RepartitionStep | SinkStep)),
    )


def _once(topics: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(topics))
