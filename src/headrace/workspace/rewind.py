"""Another place in its topic for an egress: back, to deliver again, or ahead, to leave out.

Owns `plan_rewind`, which changes nothing, and `rewind`, which carries a plan out:

1. the egress is ordered to stop, and its group is empty;
2. where the target holds positions, they are set in the target, in one step;
3. the group's offsets are set: they count where the target holds none, and tell the lag everywhere;
4. the egress is wanted as it was before.

- Refused while the egress runs: somebody pauses it first and sees where it stands.
- The target's positions are set only where they are what the plan showed. A crash between 2 and 3 leaves the target
  rewound, which alone counts there.
- Rows in the target stay. Replayed dead letters, which are delivered beside the topic, do not come again.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import structlog

from headrace.egress.errors import ConnectorFailed
from headrace.egress.sdk import Capabilities, Mode, Rewinds
from headrace.errors import HeadraceError
from headrace.log.port import Admin, OffsetAndMetadata, TopicPartition
from headrace.workspace.control import ControlTopic, DesiredState, open_control
from headrace.workspace.egress_trials import Trial, chosen_egress, open_trial
from headrace.workspace.environment import Environment
from headrace.workspace.errors import WorkspaceBusy, WorkspaceError
from headrace.workspace.fleet import STANDING, alive
from headrace.workspace.load import Workspace
from headrace.workspace.reading import Start
from headrace.workspace.slots import try_lock
from headrace.workspace.status import ComponentKind

STOP_TIMEOUT_S = 90.0
"""Longer than the session of a member that was killed, which its group waits for."""
LOOK_INTERVAL_S = 0.2

_log = structlog.get_logger(__name__)

Tell = Callable[[str], None]


class EgressRunning(WorkspaceError):
    """What is asked for cannot be done while the egress runs."""

    code = "workspace.egress_running"


class RewindRefused(WorkspaceError):
    """An egress that cannot be rewound, or a place where it cannot stand."""

    code = "workspace.rewind_refused"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an egress is to stand: one of these, or none for the beginning of its topic."""

    time_ms: int | None = None
    """At the first records of this time or later."""
    offset: int | None = None
    """At this offset of every partition."""
    offsets: Mapping[int, int] | None = None
    """At these offsets, by partition; partitions that are not named stay where they are."""

    @classmethod
    def parse(cls, time_: str | None, offset: str | None) -> Place:
        """What an operator wrote; at most one is given. Raises `RewindRefused`, `StartInvalid`."""
        if time_ is not None:
            start = Start.parse(time_)
            if start.time_ms is None:
                raise RewindRefused(f"{time_!r} is no time", cure="write one such as 2026-01-31T12:00:00Z")
            return cls(time_ms=start.time_ms)
        if offset is None:
            return cls()
        if offset.isdecimal():
            return cls(offset=int(offset))
        return cls(offsets=dict(_parse_offset(each.strip()) for each in offset.split(",")))

    @property
    def text(self) -> str:
        """For people."""
        if self.time_ms is not None:
            return f"time {self.time_ms}ms"
        if self.offset is not None:
            return f"offset {self.offset}"
        if self.offsets is not None:
            return "offset " + ",".join(f"{partition}={offset}" for partition, offset in sorted(self.offsets.items()))
        return "beginning"


def _parse_offset(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)=(\d+)", text)
    if found is None:
        raise RewindRefused(f"{text!r} names no offset", cure="write partition=offset, such as 0=120, or one for all")
    return int(found.group(1)), int(found.group(2))


@dataclass(frozen=True, slots=True)
class Move:
    """One partition's way."""

    partition: int
    before: int | None
    """Where it stands; None where nothing was delivered of it, so it begins at `begin`."""
    begin: int
    after: int

    @property
    def offsets(self) -> int:
        """How far; negative is back."""
        return self.after - (self.begin if self.before is None else max(self.before, self.begin))


@dataclass(frozen=True, slots=True)
class Rewind:
    """What a rewind would do."""

    egress: str
    topic: str
    group: str
    mode: Mode
    capabilities: Capabilities
    place: Place
    moves: Sequence[Move]
    """Of the partitions that move."""

    @property
    def again(self) -> int:
        """Offsets that are read again: at most so many records."""
        return -sum(min(0, each.offsets) for each in self.moves)

    @property
    def skipped(self) -> int:
        """Offsets that are never read."""
        return sum(max(0, each.offsets) for each in self.moves)

    def meaning(self) -> list[str]:
        """What it does to the target, in words."""
        told = []
        if self.again and self.mode is Mode.APPEND:
            told.append("rows come again: append adds them a second time")
        elif self.again and self.capabilities.refuses_stale:
            told.append("rows are written again by key; one older than what the target holds of its key is not")
        elif self.again:
            told.append("rows are written again by key; until it has caught up the target shows older rows")
        if self.skipped:
            told.append("what is skipped is not delivered, and is no dead letter")
        return told


def plan_rewind(workspace: Workspace, environment: Environment, name: str, place: Place) -> Rewind:
    """What to do. Asks log and target; changes nothing. Raises `UnknownName`, `RewindRefused`, `LogError`."""
    (config,) = chosen_egress(workspace, [name])
    trial = open_trial(config, workspace)
    group = config.group(workspace.name)
    with closing(environment.log.admin()) as admin:
        description = admin.topics().get(config.topic)
        if description is None:
            raise RewindRefused(
                f"environment {environment.name!r} has no topic {config.topic!r}", cure="run `headrace apply`"
            )
        here = [TopicPartition(config.topic, number) for number in range(description.partitions)]
        committed = {each.partition: at.offset for each, at in admin.group_offsets(group).items() if each in here}
    stands = _held(trial) if trial.connector.capabilities.atomic_positions else committed
    with closing(environment.log.consumer(client_id="headrace-rewind")) as consumer:
        begins, ends = consumer.beginning_offsets(here), consumer.end_offsets(here)
        to = dict(begins)
        if place.time_ms is not None:
            to = dict(consumer.offsets_for_time(dict.fromkeys(here, place.time_ms)))
    if place.offset is not None or place.offsets is not None:
        wanted = place.offsets if place.offsets is not None else {each.partition: place.offset or 0 for each in here}
        to = {TopicPartition(config.topic, partition): offset for partition, offset in wanted.items()}
        _check_offsets(to, begins, ends)
    moves = [
        Move(each.partition, stands.get(each.partition), begins[each], offset) for each, offset in sorted(to.items())
    ]
    moved = [each for each in moves if each.after != (each.begin if each.before is None else each.before)]
    return Rewind(name, config.topic, group, config.mode, trial.connector.capabilities, place, moved)


def _check_offsets(
    wanted: Mapping[TopicPartition, int], begins: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> None:
    for here, offset in wanted.items():
        if here not in begins:
            raise RewindRefused(
                f"topic {here.topic!r} has no partition {here.partition}",
                cure=f"it has {len(begins)}, from 0 to {len(begins) - 1}",
            )
        if not begins[here] <= offset <= ends[here]:
            raise RewindRefused(
                f"offset {offset} of partition {here.partition} is not there",
                cure=f"give one from {begins[here]} to {ends[here]}",
            )


def rewind(
    workspace: Workspace,
    environment: Environment,
    planned: Rewind,
    *,
    tell: Tell = lambda line: None,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> DesiredState:
    """Carry a plan out; returns what is wanted of the egress from now on. Raises `EgressRunning`, `PositionMoved`."""
    (config,) = chosen_egress(workspace, [planned.egress])
    trial = open_trial(config, workspace)
    lock = try_lock(environment.root, f"rewind.{environment.name}.{planned.egress}")
    if lock is None:
        raise WorkspaceBusy(f"egress {planned.egress!r} is being rewound by another process", cure="wait for it")
    with lock, open_control(environment) as control, closing(environment.log.admin()) as admin:
        state = _check_rests(environment, control, admin, planned)
        with _stopped(control, planned.egress, state):
            _wait_empty(admin, planned, tell, stop_timeout_s)
            _move(trial, admin, planned)
    _log.info(
        "egress_rewound",
        egress=planned.egress,
        environment=environment.name,
        to=planned.place.text,
        before={each.partition: each.before for each in planned.moves},
        after={each.partition: each.after for each in planned.moves},
    )
    return state


def _check_rests(environment: Environment, control: ControlTopic, admin: Admin, planned: Rewind) -> DesiredState:
    """Raises `EgressRunning` unless the egress is paused, or runs nowhere."""
    name, state = planned.egress, control.desired(ComponentKind.EGRESS, planned.egress).state
    if state is DesiredState.RUNNING:
        if not admin.group_is_empty(planned.group):
            raise EgressRunning(f"egress {name!r} runs", cure=f"run `headrace pause {name}` and rewind then")
        return state
    late = [each for each in alive(environment, ComponentKind.EGRESS, name) if each.state not in STANDING]
    if late:
        who = ", ".join(f"{each.instance} (process {each.pid}, {each.state.value})" for each in late)
        raise EgressRunning(
            f"egress {name!r} is to be {state.value} and does not yet stand still: {who}",
            cure="rewind when `headrace status` says so",
        )
    return state


@contextmanager
def _stopped(control: ControlTopic, name: str, state: DesiredState) -> Iterator[None]:
    """Nobody delivers meanwhile, and nobody who starts meanwhile begins."""
    reason = f"headrace rewind on {socket.gethostname()}"
    control.set_desired(ComponentKind.EGRESS, name, DesiredState.STOPPED, reason=reason)
    try:
        yield
    finally:
        control.set_desired(ComponentKind.EGRESS, name, state, reason="headrace rewind")


def _wait_empty(admin: Admin, planned: Rewind, tell: Tell, timeout_s: float) -> None:
    deadline_s, told = time.monotonic() + timeout_s, False
    while not admin.group_is_empty(planned.group):
        if time.monotonic() >= deadline_s:
            raise EgressRunning(
                f"group {planned.group!r} has members {timeout_s:g} s after they were told to stop",
                cure="look at the workers that run this egress, and rewind again",
            )
        if not told:
            tell(f"waiting until the workers of {planned.egress!r} have left")
            told = True
        time.sleep(LOOK_INTERVAL_S)


def _move(trial: Trial, admin: Admin, planned: Rewind) -> None:
    after = {each.partition: each.after for each in planned.moves}
    if trial.connector.capabilities.atomic_positions:
        before = {each.partition: each.before for each in planned.moves if each.before is not None}
        connector, contract = _rewinds(trial), trial.view.contract
        with _named(trial, "rewind"):
            connector.rewind(trial.told, contract, before, after)
    offsets = {TopicPartition(planned.topic, each): OffsetAndMetadata(offset) for each, offset in after.items()}
    admin.alter_group_offsets(planned.group, offsets)


def _held(trial: Trial) -> Mapping[int, int]:
    connector = _rewinds(trial)
    with _named(trial, "positions"):
        return connector.positions(trial.told, trial.view.contract)


def _rewinds(trial: Trial) -> Rewinds:
    if not isinstance(trial.connector, Rewinds):
        raise RewindRefused(
            f"egress {trial.config.name!r}: connector {trial.config.connector!r} holds positions that cannot be set",
            where=trial.config.where,
            cure="give the egress another `name:` and target: it begins at the beginning of its topic",
        )
    return trial.connector


@contextmanager
def _named(trial: Trial, call: str) -> Iterator[None]:
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:
        raise ConnectorFailed(trial.config.connector, call, error) from error
