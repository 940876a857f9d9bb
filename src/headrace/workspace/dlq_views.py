"""Dead letters as people and scripts see them.

Owns the groups of `headrace dlq list` and the decoded form of `headrace dlq show`.

- Key and value are decoded by the contract of the topic that the record came from; where that fails they are bytes,
  with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.contracts.codec import FailedRow
from headrace.engine.replay_rows import RowUnreadable, kept_row
from headrace.errors import HeadraceError
from headrace.log.columns import binary_column, headers_column
from headrace.log.port import RecordBatch, UnknownTopic
from headrace.workspace.dead_letters import DeadLetter, Filters, Group, Owner, read_letters
from headrace.workspace.environment import Environment
from headrace.workspace.load import Workspace
from headrace.workspace.reading import Decoder
from headrace.workspace.replay import group_of, target_of
from headrace.workspace.replay_outcomes import Outcome, Outcomes, read_outcomes
from headrace.workspace.replay_targets import NotReplayable


@dataclass(frozen=True, slots=True)
class ShownLetter:
    """A dead letter with everything that can be told of it."""

    letter: DeadLetter
    outcome: Outcome
    key: Mapping[str, Any] | bytes | None
    value: Mapping[str, Any] | bytes | None
    undecoded: FailedRow | None
    """Why key or value is bytes although there is a contract."""
    row: Mapping[str, Any] | None
    """The row as it came to the step, where it is kept."""
    why_not: HeadraceError | None
    """Why it cannot be replayed."""


def groups(workspace: Workspace, environment: Environment, owners: Sequence[Owner]) -> list[Group]:
    """Dead letters of these topics by stage, step and code; those of topics that are not there yet are none."""
    found: list[Group] = []
    for owner in owners:
        try:
            found.extend(_groups_of(workspace, environment, owner))
        except UnknownTopic:
            continue  # `headrace apply`, or the first start, makes it.
    return found


def _groups_of(workspace: Workspace, environment: Environment, owner: Owner) -> list[Group]:
    outcomes = _outcomes(workspace, environment, owner)
    made: dict[tuple[str, str, str], Group] = {}
    replayed: list[tuple[Group, DeadLetter]] = []
    for letter in read_letters(environment.log, owner.topic):
        outcomes.note(letter.again_of)
        key = (letter.stage, letter.step, letter.code)
        group = made.setdefault(key, Group(owner, *key))
        group.add(letter, Outcome.OPEN)
        if letter.place.text in outcomes.replayed:
            replayed.append((group, letter))
    for group, letter in replayed:  # Only now all newer ones are known.
        group.outcomes[Outcome.OPEN] -= 1
        outcome = outcomes.of(letter.place)
        group.outcomes[outcome] = group.outcomes.get(outcome, 0) + 1
    return [made[key] for key in sorted(made)]


def _outcomes(workspace: Workspace, environment: Environment, owner: Owner) -> Outcomes:
    if owner.kind is None:
        return Outcomes()
    return read_outcomes(environment.log, owner.name, group_of(workspace, owner))


def show(
    workspace: Workspace, environment: Environment, owner: Owner, filters: Filters, limit: int
) -> Iterator[ShownLetter]:
    """The first `limit` dead letters that the filters take. Raises `UnknownTopic`."""
    outcomes = _outcomes(workspace, environment, owner)
    chosen: list[DeadLetter] = []
    for letter in read_letters(environment.log, owner.topic):
        outcomes.note(letter.again_of)
        if len(chosen) < limit and filters.takes(letter):
            chosen.append(letter)
        elif len(chosen) >= limit and not outcomes.replayed:
            break
    viewer = _Viewer(workspace, environment, owner)
    for letter in chosen:
        yield viewer.shown(letter, outcomes.of(letter.place))


class _Viewer:
    """Decodes dead letters; opens what it needs once."""

    def __init__(self, workspace: Workspace, environment: Environment, owner: Owner) -> None:
        self._workspace, self._environment = workspace, environment
        self._decoders: dict[str, Decoder] = {}
        try:
            self._target = target_of(workspace, environment, owner)
            self._nothing: HeadraceError | None = None
        except (NotReplayable, UnknownTopic) as error:
            self._nothing = error

    def shown(self, letter: DeadLetter, outcome: Outcome) -> ShownLetter:
        (record,) = self._decoder(letter).decode(_batch(letter))
        row = None if letter.row is None else self._row(letter.row)
        return ShownLetter(letter, outcome, record.key, record.value, record.error, row, self._why_not(letter))

    def _decoder(self, letter: DeadLetter) -> Decoder:
        topic = letter.source.topic if letter.source is not None and letter.is_original else ""
        if topic not in self._decoders:
            self._decoders[topic] = Decoder(self._workspace.topics.get(topic), self._environment.registry)
        return self._decoders[topic]

    def _row(self, header: bytes) -> Mapping[str, Any] | None:
        try:
            row = kept_row(header).frame.row(0, named=True)
        except RowUnreadable:
            return None  # `why_not` says it.
        return {name: value for name, value in row.items() if not name.startswith("__")}

    def _why_not(self, letter: DeadLetter) -> HeadraceError | None:
        if self._nothing is not None:
            return self._nothing
        try:
            self._target.entrances(letter, None)
        except HeadraceError as error:
            return error
        return None


def _batch(letter: DeadLetter) -> RecordBatch:
    return RecordBatch(
        letter.source.topic if letter.source is not None else "",
        np.array([letter.place.partition], np.int32),
        np.array([letter.place.offset], np.int64),
        np.array([letter.time_ms], np.int64),
        binary_column([letter.key]),
        binary_column([letter.value]),
        headers_column([letter.headers]),
    )
