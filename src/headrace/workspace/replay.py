"""Replaying dead letters: which, to where, once.

Owns the decision about each dead letter, and the transaction that holds replay records and outcomes.

1. The producer is opened first: it fences whoever replays dead letters of this component at the same time.
2. Dead letters and outcomes are read, and each is decided about.
3. Replay records and outcomes are written in one transaction.
4. The processes that run the component are told through the control topic.

- What was replayed is not replayed again, and nothing more than `REPLAYS_MAX` times, unless it is forced.
- A dry run opens no producer and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import Fault, HeadraceError
from headrace.log.columns import outgoing
from headrace.log.port import Log, Producer, RecordTooLarge, TopicExists, TopicPartition, TopicSpec, UnknownTopic
from headrace.log.replays import LetterPlace
from headrace.workspace.control import open_control
from headrace.workspace.dead_letters import (
    DeadLetter,
    Filters,
    Owner,
    end_offsets,
    letter_of,
    read_batches,
    read_letters,
    read_records,
)
from headrace.workspace.environment import Environment
from headrace.workspace.errors import WorkspaceError
from headrace.workspace.load import Workspace
from headrace.workspace.replay_news import replay_key
from headrace.workspace.replay_outcomes import (
    Outcome,
    Outcomes,
    Replayed,
    outcomes_topic,
    read_outcomes,
    replay_topic,
)
from headrace.workspace.replay_patch import Patch
from headrace.workspace.replay_targets import (
    EgressTarget,
    Entrance,
    NotReplayable,
    PipelineTarget,
    ReplayTarget,
    source_of,
)
from headrace.workspace.status import ComponentKind

REPLAYS_MAX = 3
"""How often one record may be replayed: what failed so often fails for a reason."""
REPLAYS_AT_ONCE_MAX = 10_000
"""Dead letters of one call: they are in memory, and in one transaction."""
WAIT_INTERVAL_S = 0.2


class ReplayedBefore(WorkspaceError):
    """A dead letter was replayed already."""

    code = "workspace.replayed_before"


class ReplayLoop(WorkspaceError):
    """A record fails however often it is replayed."""

    code = "workspace.replay_loop"


class ReplayOutdated(WorkspaceError):
    """A row of a table would take the place of a newer one."""

    code = "workspace.replay_outdated"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    owner: Owner
    """Whose steps the dead letters come to again."""
    topic: str
    """Where they lie: the owner's dead-letter topic, or another one."""
    filters: Filters
    patch: Patch | None = None
    force: bool = False
    limit: int = REPLAYS_AT_ONCE_MAX


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one dead letter."""

    letter: DeadLetter
    entrances: Sequence[Entrance] = ()
    refusal: HeadraceError | None = None
    outcome: Outcome = Outcome.OPEN
    """As it stands."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay did, or would do."""

    decisions: Sequence[Decision]
    replayed_before: int
    """How many there are, also where `decisions` has only some of them."""
    began_at: Mapping[TopicPartition, int]
    """The end of the owner's dead-letter topic before."""


def target_of(workspace: Workspace, environment: Environment, owner: Owner) -> ReplayTarget:
    """Where dead letters of a component come in again. Raises `NotReplayable`, `UnknownTopic`."""
    if owner.kind is ComponentKind.PIPELINE:
        plan = next(each.plan for each in workspace.pipelines if each.plan.name == owner.name)
        topics = {topic for each in plan.subtopologies for topic in (*each.reads, *each.writes)}
        return PipelineTarget(plan, workspace.topics, environment.registry, _widths(environment.log, topics))
    if owner.kind is ComponentKind.EGRESS:
        config = next(each for each in workspace.egress if each.name == owner.name)
        width = _widths(environment.log, {config.topic})[config.topic]
        return EgressTarget(config, workspace.topics[config.topic], environment.registry, width)
    if owner.kind is ComponentKind.INGRESS:
        raise NotReplayable(
            f"ingress {owner.name!r} never published these changes, so no step waits for them",
            cure="correct the row in the source: the ingress reads it again as a change",
        )
    raise NotReplayable(
        f"{owner.topic!r} is nobody's topic in this workspace",
        cure=f"name the pipeline or egress that shall take them, with --topic {owner.topic}",
    )


def _widths(log: Log, topics: set[str]) -> dict[str, int]:
    admin = log.admin()
    try:
        found = admin.topics(internal=True)
    finally:
        admin.close()
    if missing := sorted(topics - found.keys()):
        raise UnknownTopic(f"no topic {missing[0]!r} on the {log.name} log", cure="run `headrace apply`")
    return {topic: found[topic].partitions for topic in topics}


def group_of(workspace: Workspace, owner: Owner) -> str:
    """The group that keeps a component's positions."""
    middle = "egress." if owner.kind is ComponentKind.EGRESS else ""
    return f"{workspace.name}.{middle}{owner.name}"


def plan_replay(workspace: Workspace, environment: Environment, request: Request) -> ReplayReport:
    """Decide about every dead letter that is asked for; changes nothing."""
    target = target_of(workspace, environment, request.owner)
    log, owner = environment.log, request.owner
    began_at = end_offsets(log, owner.topic)
    outcomes = read_outcomes(log, owner.name, group_of(workspace, owner))
    chosen: list[DeadLetter] = []
    before = taken = 0
    for letter in read_letters(log, request.topic):
        outcomes.note(letter.again_of)
        if not request.filters.takes(letter):
            continue
        # Those replayed before do not count against the limit, or nobody would ever come behind them.
        is_new = request.force or outcomes.of(letter.place) is Outcome.OPEN
        before, taken = before + (not is_new), taken + is_new
        if (taken if is_new else before) <= request.limit:
            chosen.append(letter)
    decisions = [_decided(letter, target, outcomes, request) for letter in chosen]
    if not request.force:
        decisions = _without_outdated(log, target, decisions)
    return ReplayReport(decisions, before, began_at)


def _decided(letter: DeadLetter, target: ReplayTarget, outcomes: Outcomes, request: Request) -> Decision:
    outcome = outcomes.of(letter.place)
    try:
        if not request.force:
            _check_first_time(letter, outcome)
        return Decision(letter, target.entrances(letter, request.patch), outcome=outcome)
    except HeadraceError as error:
        if error.fault is Fault.RETRY:
            raise
        return Decision(letter, refusal=error, outcome=outcome)


def _check_first_time(letter: DeadLetter, outcome: Outcome) -> None:
    if outcome is not Outcome.OPEN:
        raise ReplayedBefore(f"it was replayed, and is {outcome.value}", cure="--force replays it once more")
    if letter.replays >= REPLAYS_MAX:
        raise ReplayLoop(
            f"its record was replayed {letter.replays} times and fails each time",
            cure="mend the step or give a --patch; --force replays it once more",
        )


def _without_outdated(log: Log, target: ReplayTarget, decisions: Sequence[Decision]) -> list[Decision]:
    """Refuse rows of tables where a newer record of the same key lies behind theirs."""
    asked = [each for each in decisions if each.entrances and target.replaces(each.letter)]
    newer = newer_records(log, [each.letter for each in asked])
    checked = {each.letter.place: newer.get(each.letter.place) for each in asked}
    return [_outdated(each, checked[each.letter.place]) if each.letter.place in checked else each for each in decisions]


def _outdated(decision: Decision, newer: int | None) -> Decision:
    letter = decision.letter
    if newer == letter.source_offset and newer is not None:
        return decision
    if newer is None:
        message = "it is a row of a table, and nobody can tell whether a newer one of its key has come since"
    else:
        message = f"a newer record of its key is at offset {newer} of {letter.source.topic if letter.source else ''}"
    refusal = ReplayOutdated(message, cure="--force puts this one in its place")
    return replace(decision, entrances=(), refusal=refusal)


def newer_records(log: Log, letters: Sequence[DeadLetter]) -> dict[LetterPlace, int]:
    """By place of the letter, the last offset of its key in its source; those that cannot be told are left out."""
    wanted: dict[TopicPartition, dict[bytes, int]] = {}
    starts: dict[TopicPartition, int] = {}
    for letter in letters:
        source = source_of(letter)
        if source is not None and letter.key is not None:
            here, offset = source
            wanted.setdefault(here, {})[letter.key] = -1
            starts[here] = min(offset, starts.get(here, offset))
    for topic in {here.topic for here in starts}:
        _find_last(log, topic, {here: start for here, start in starts.items() if here.topic == topic}, wanted)
    found = {}
    for letter in letters:
        source = source_of(letter)
        if source is not None and letter.key is not None:
            found[letter.place] = max(wanted[source[0]][letter.key], source[1])
    return found


def _find_last(
    log: Log, topic: str, starts: Mapping[TopicPartition, int], wanted: Mapping[TopicPartition, dict[bytes, int]]
) -> None:
    for batch in read_batches(log, topic, starts):
        for partition in np.unique(batch.partition).tolist():
            last = wanted[TopicPartition(topic, partition)]
            keys = pa.array(list(last), pa.large_binary())
            hits = pc.is_in(batch.key, value_set=keys).to_numpy(zero_copy_only=False) & (batch.partition == partition)
            for row in np.flatnonzero(hits).tolist():
                key = batch.key[row].as_py()
                last[key] = max(last[key], int(batch.offset[row]))


def carry_out(workspace: Workspace, environment: Environment, request: Request) -> ReplayReport:
    """Decide, and replay. Raises what the log raises; then nothing is replayed, or all of it."""
    target, log, owner = target_of(workspace, environment, request.owner), environment.log, request.owner
    _ensure_topics(environment, owner.name, target.partitions)
    producer = log.producer(transactional_id=f"{workspace.name}.dlq.{owner.name}")
    try:
        producer.begin()
        report = plan_replay(workspace, environment, request)
        report = replace(report, decisions=_write(log, producer, request, report.decisions))
        producer.commit()
    finally:
        producer.close()
    if any(each.entrances for each in report.decisions):
        with open_control(environment) as control:
            assert owner.kind is not None
            control.put(replay_key(owner.kind.value, owner.name), {"at_ms": _now_ms()})
    return report


def _write(log: Log, producer: Producer, request: Request, decisions: Sequence[Decision]) -> list[Decision]:
    """Replay records, then their outcomes."""
    name, patched = request.owner.name, request.patch is not None
    topic, outcomes = replay_topic(name, 1, -1).name, outcomes_topic(name, -1).name
    # Nobody else writes there: this producer fenced all others, so offsets go on from here.
    next_offset = {here.partition: offset for here, offset in end_offsets(log, topic).items()}
    done: list[Decision] = []
    for decision in decisions:
        written = _written(producer, topic, decision)
        done.append(written)
        if not written.entrances:
            continue
        to = []
        for entrance in written.entrances:
            to.append((entrance.partition, next_offset[entrance.partition]))
            next_offset[entrance.partition] += 1
        letter = decision.letter
        entry = Replayed(_now_ms(), letter.replays + 1, tuple(to), patched, request.force)
        key = letter.place.text.encode()
        producer.produce(outgoing(outcomes, [entry.to_json()], keys=[key], partitions=0))
    return done


def _written(producer: Producer, topic: str, decision: Decision) -> Decision:
    entrances = decision.entrances
    if not entrances:
        return decision
    records = outgoing(
        topic,
        [each.value for each in entrances],
        keys=[each.key for each in entrances],
        partitions=[each.partition for each in entrances],
        headers=[each.headers for each in entrances],
    )
    try:
        producer.produce(records)
    except RecordTooLarge as error:
        return replace(decision, entrances=(), refusal=error)
    return replace(decision, outcome=Outcome.PENDING)


def _ensure_topics(environment: Environment, name: str, partitions: int) -> None:
    factor = environment.config.replication_factor
    admin = environment.log.admin()
    try:
        present = admin.topics()
        for spec in (replay_topic(name, partitions, factor), outcomes_topic(name, factor)):
            found = present.get(spec.name)
            if found is None:
                _create(environment, spec)
            elif found.partitions < spec.partitions:
                admin.add_partitions(spec.name, spec.partitions)
    finally:
        admin.close()


def _create(environment: Environment, spec: TopicSpec) -> None:
    admin = environment.log.admin()
    try:
        admin.create_topics([spec])
    except TopicExists:
        return  # Another one was first.
    finally:
        admin.close()


def wait(
    workspace: Workspace, environment: Environment, request: Request, report: ReplayReport, timeout_s: float
) -> ReplayReport:
    """How the replayed ones stand once all are taken up, or after so long."""
    owner, log = request.owner, environment.log
    deadline_s = time.monotonic() + timeout_s
    while True:
        outcomes = read_outcomes(log, owner.name, group_of(workspace, owner))
        ends = end_offsets(log, owner.topic)  # After the positions: what they were committed with lies before.
        for record in _decided_records(log, owner.topic, report.began_at, ends, deadline_s):
            outcomes.note(record.again_of)
        decisions = [
            replace(each, outcome=outcomes.of(each.letter.place)) if each.entrances else each
            for each in report.decisions
        ]
        waits = any(each.entrances and each.outcome is Outcome.PENDING for each in decisions)
        if not waits or time.monotonic() > deadline_s:
            return replace(report, decisions=decisions)
        time.sleep(WAIT_INTERVAL_S)


def _decided_records(
    log: Log, topic: str, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], deadline_s: float
) -> list[DeadLetter]:
    """Dead letters between these offsets, those of transactions whose markers are still under way too."""
    here = list(starts)
    consumer = log.consumer(client_id="headrace-dlq")
    try:
        while any(consumer.end_offsets(here)[each] < ends[each] for each in here) and time.monotonic() < deadline_s:
            time.sleep(WAIT_INTERVAL_S / 4)
    finally:
        consumer.close()
    return [letter_of(topic, record) for record in read_records(log, topic, starts)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
