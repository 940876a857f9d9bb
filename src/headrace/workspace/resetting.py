"""Resets of pipelines, carried out, finished after a crash, and undone.

Owns the order of a reset:

1. the pipeline is stopped through the control topic, and its group is empty;
2. everything that goes is copied, with the group's positions (`headrace.workspace.reset_copies`);
3. positions go, state goes, rows between steps go; positions are set;
4. the pipeline is wanted as it was before.

- Until 2 is complete nothing was changed: a failure leaves everything as it was.
- From then on the journal tells what is left: the same reset again makes every change again, to the same end; `undo`
  puts the copies back instead. In between the pipeline is stopped, and `resume` is refused.
- Positions go first and come last: state without positions stops a worker, so half a reset never computes.
- One process of a machine resets a pipeline at a time; a reset begun on another machine is refused.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from headrace.engine.checkpoint import Checkpoint
from headrace.log.port import Admin, LogError, OffsetAndMetadata, TopicDescription, TopicPartition
from headrace.workspace.control import ControlTopic, Desired, DesiredState, open_control
from headrace.workspace.environment import Environment
from headrace.workspace.errors import PipelineRunning, ResetUnfinished, WorkspaceBusy, WorkspaceError
from headrace.workspace.fleet import RESET_REASON, alive
from headrace.workspace.load import Workspace
from headrace.workspace.reset import Reset, Target, as_it_is, pipeline_plan, plan_reset
from headrace.workspace.reset_copies import PutBack, check_copy, copy_topic, put_back
from headrace.workspace.reset_journal import (
    Journal,
    Phase,
    Position,
    Topic,
    forget,
    journals,
    new_folder,
    prune,
    unfinished,
    write_journal,
)
from headrace.workspace.slots import try_lock
from headrace.workspace.status import ComponentKind

STOP_TIMEOUT_S = 90.0
"""Longer than the session of a member that was killed, which its group waits for."""
LOOK_INTERVAL_S = 0.2
STATE, BETWEEN = ".changelog", ".repartition"
"""Endings of topics that hold state, and rows between steps."""

_log = structlog.get_logger(__name__)

Tell = Callable[[str], None]


class NothingToUndo(WorkspaceError):
    """No reset of the pipeline is kept here that could be undone."""

    code = "workspace.nothing_to_undo"


@dataclass(slots=True)
class Resetter:
    """Resets one pipeline of one environment."""

    workspace: Workspace
    environment: Environment
    pipeline: str
    tell: Tell = lambda line: None
    """Told what happens, line by line."""
    take_over: bool = False
    """The machine that began a reset is gone."""
    stop_timeout_s: float = STOP_TIMEOUT_S

    @property
    def _place(self) -> tuple[Path, str, str]:
        return self.environment.root, self.environment.name, self.pipeline

    def kept(self) -> list[tuple[Path, Journal]]:
        """The resets that are kept here, oldest first."""
        return journals(*self._place)

    def broke_off(self) -> bool:
        """Whether a reset is to be finished or undone before another one."""
        left = unfinished(*self._place)
        return left is not None and left[1].phase is not Phase.STOPPING

    def reset(self, target: Target) -> tuple[Path, Journal]:
        """Do it, or finish what broke off. Raises `ResetUnfinished` when that was another one."""
        pipeline_plan(self.workspace, self.pipeline)
        with self._alone() as control:
            left = unfinished(*self._place)
            if left is not None and self.broke_off():
                return self._finished(control, *left, target)
            before = self._before(control, left)
            if left is not None:
                # It broke off before it changed anything.
                forget(left[0])
            planned = plan_reset(self.workspace, self.environment, self.pipeline, target)
            folder, journal = self._prepared(control, planned, before)
            done = self._change(control, folder, journal)
            prune(*self._place)
            return folder, done

    def undo(self) -> tuple[Path, Journal]:
        """Bring back offsets and state from before the last reset. Raises `NothingToUndo`."""
        pipeline_plan(self.workspace, self.pipeline)
        with self._alone() as control:
            left = unfinished(*self._place)
            if left is not None and left[1].phase is Phase.STOPPING:
                return self._called_off(control, *left)
            folder, journal = self._to_undo()
            before = self._before(control, (folder, journal))
            for copy in journal.copies:
                check_copy(folder, copy)
            undoing = journal.model_copy(update={"phase": Phase.UNDOING, "before": before.state})
            write_journal(folder, undoing)
            try:
                self._stop(control, folder)
            except BaseException:
                if journal.phase is Phase.DONE and self._go_on(control, before.state):
                    write_journal(folder, journal)
                raise
            return folder, self._put_back(control, folder, undoing)

    def _to_undo(self) -> tuple[Path, Journal]:
        left = [(folder, journal) for folder, journal in self.kept() if journal.phase is not Phase.UNDONE]
        if not left:
            raise NothingToUndo(
                f"no reset of pipeline {self.pipeline!r} is kept on this machine",
                cure="undo it where `headrace reset` was run",
            )
        return left[-1]

    def _called_off(self, control: ControlTopic, folder: Path, journal: Journal) -> tuple[Path, Journal]:
        """Take back a reset that broke off before it changed anything."""
        control.set_desired(ComponentKind.PIPELINE, self.pipeline, self._before(control, (folder, journal)).state)
        forget(folder)
        return folder, journal.model_copy(update={"phase": Phase.UNDONE})

    @contextmanager
    def _alone(self) -> Iterator[ControlTopic]:
        lock = try_lock(self.environment.root, f"reset.{self.environment.name}.{self.pipeline}")
        if lock is None:
            raise WorkspaceBusy(
                f"pipeline {self.pipeline!r} is being reset by another process", cure="wait until it is done"
            )
        with lock, open_control(self.environment) as control:
            yield control

    def _before(self, control: ControlTopic, left: tuple[Path, Journal] | None) -> Desired:
        """What was wanted of the pipeline before any reset stopped it."""
        desired = control.desired(ComponentKind.PIPELINE, self.pipeline)
        if desired.state is not DesiredState.STOPPED or not desired.reason.startswith(RESET_REASON):
            return desired
        if left is not None and not left[1].is_over:
            return replace(desired, state=left[1].before, reason="")
        if not self.take_over:
            raise ResetUnfinished(
                f"pipeline {self.pipeline!r} is stopped by {desired.reason}, which is not kept here",
                cure="finish it there; if that machine is gone, reset with `--take-over`",
            )
        return Desired()

    # 1 and 2: stop and copy

    def _prepared(self, control: ControlTopic, planned: Reset, before: Desired) -> tuple[Path, Journal]:
        folder = new_folder(*self._place)
        journal = Journal(
            pipeline=self.pipeline,
            environment=self.environment.name,
            group=planned.group,
            target=planned.target.text,
            before=before.state,
            remade=tuple(planned.remade),
            emptied=tuple(planned.emptied),
            deleted=tuple(planned.deleted),
            positions=_positions(planned.positions),
        )
        write_journal(folder, journal)
        try:
            self._stop(control, folder)
            return folder, self._copied(folder, journal, planned.target)
        except BaseException:
            # Nothing was changed. Whoever asked may have given up waiting, or the disk is full.
            if self._go_on(control, before.state):
                forget(folder)
            raise

    def _stop(self, control: ControlTopic, folder: Path) -> None:
        """Order the pipeline to stop, and wait until nobody is in its group. Raises `PipelineRunning`."""
        group = f"{self.workspace.name}.{self.pipeline}"
        reason = f"{RESET_REASON} on {socket.gethostname()}, {folder.name}"
        control.set_desired(ComponentKind.PIPELINE, self.pipeline, DesiredState.STOPPED, reason=reason)
        admin = self.environment.log.admin()
        deadline_s, told = time.monotonic() + self.stop_timeout_s, False
        try:
            while not admin.group_is_empty(group):
                if time.monotonic() >= deadline_s:
                    raise self._still_running(group)
                if not told:
                    self.tell(f"waiting until the workers of {self.pipeline!r} have stopped")
                    told = True
                time.sleep(LOOK_INTERVAL_S)
        finally:
            admin.close()

    def _still_running(self, group: str) -> PipelineRunning:
        here = alive(self.environment, ComponentKind.PIPELINE, self.pipeline)
        known = ", ".join(f"{each.instance} (process {each.pid}, {each.state.value})" for each in here)
        return PipelineRunning(
            f"group {group!r} has members {self.stop_timeout_s:g} s after they were told to stop"
            + (f": {known}" if known else ", on other machines"),
            cure="look at these workers, and reset again",
        )

    def _copied(self, folder: Path, journal: Journal, target: Target) -> Journal:
        """All state, and all rows between steps, in files: an undo brings back the whole pipeline, whatever went.

        The plan is made anew, since the pipeline moved until it stopped.
        """
        planned = plan_reset(self.workspace, self.environment, self.pipeline, target)
        admin = self.environment.log.admin()
        try:
            present = admin.topics(internal=True)
            committed = admin.group_offsets(journal.group)
        finally:
            admin.close()
        names = self._kept_topics(present)
        self.tell(f"copying {len(names)} topic{'' if len(names) == 1 else 's'} to {folder}")
        # Rows between steps that are processed are of no use.
        starts = {here: each.offset for here, each in committed.items() if here.topic.endswith(BETWEEN)}
        copies = [copy_topic(self.environment.log, present[name], starts, folder) for name in names]
        journal = journal.model_copy(
            update={
                "phase": Phase.CHANGING,
                "remade": tuple(planned.remade),
                "emptied": tuple(planned.emptied),
                "deleted": tuple(planned.deleted),
                "positions": _positions(planned.positions),
                "positions_before": _positions(committed) or (),
                "copies": tuple(copies),
            }
        )
        write_journal(folder, journal)
        return journal

    def _kept_topics(self, present: Mapping[str, TopicDescription]) -> list[str]:
        """Topics that hold the pipeline's state, and rows between its steps."""
        mine = f"{self.pipeline}."
        return [name for name in sorted(present) if name.startswith(mine) and name.endswith((STATE, BETWEEN))]

    # 3 and 4: change and go on

    def _finished(self, control: ControlTopic, folder: Path, journal: Journal, target: Target) -> tuple[Path, Journal]:
        """Finish what broke off."""
        if target != Target() and target.text != journal.target:
            raise ResetUnfinished(
                f"a reset of pipeline {self.pipeline!r} (to {journal.target}) broke off",
                cure=f"run `headrace reset {self.pipeline}` to finish it, or with `--undo` to take it back",
            )
        what = "undoing" if journal.phase is Phase.UNDOING else "finishing"
        self.tell(f"{what} the reset of {folder.name} (to {journal.target}), which broke off")
        if journal.phase is Phase.RESUMING:
            return folder, self._over(control, folder, journal, Phase.DONE)
        self._stop(control, folder)
        if journal.phase is Phase.UNDOING:
            return folder, self._put_back(control, folder, journal)
        return folder, self._change(control, folder, journal)

    def _change(self, control: ControlTopic, folder: Path, journal: Journal) -> Journal:
        admin = self.environment.log.admin()
        try:
            present = admin.topics(internal=True)
            if journal.positions is not None and journal.group in admin.groups():
                admin.delete_group(journal.group)
            for topic in journal.remade:
                self._remake(admin, topic, present)
            for name in journal.emptied:
                _empty(admin, present[name])
            if gone := [name for name in journal.deleted if name in present]:
                admin.delete_topics(gone)
            if journal.positions:
                admin.alter_group_offsets(journal.group, {each.here: each.committed for each in journal.positions})
        finally:
            admin.close()
        return self._over(control, folder, journal, Phase.DONE)

    def _put_back(self, control: ControlTopic, folder: Path, journal: Journal) -> Journal:
        """The reverse: topics as they were, with their records, then the positions."""
        copies = {copy.topic.name: copy for copy in journal.copies}
        moved: dict[str, PutBack] = {}
        admin = self.environment.log.admin()
        try:
            present = admin.topics(internal=True)
            if journal.group in admin.groups():
                admin.delete_group(journal.group)
            for name in sorted({*copies, *self._kept_topics(present)}):
                topic = copies[name].topic if name in copies else as_it_is(present[name])
                if name.endswith(BETWEEN) and name in present and present[name].partitions == topic.partitions:
                    # Made anew it would be another topic than the positions are about.
                    _empty(admin, present[name])
                else:
                    self._remake(admin, topic, present)
                if name in copies:
                    self.tell(f"putting back {copies[name].records:,} records of {name}")
                    moved[name] = put_back(self.environment.log, folder, copies[name])
            if journal.positions_before:
                placed = [_placed(each, moved.get(each.topic)) for each in journal.positions_before]
                admin.alter_group_offsets(journal.group, {each.here: each.committed for each in placed})
        finally:
            admin.close()
        return self._over(control, folder, journal, Phase.UNDONE)

    def _remake(self, admin: Admin, topic: Topic, present: Mapping[str, TopicDescription]) -> None:
        if topic.name in present:
            admin.delete_topics([topic.name])
        admin.create_topics([topic.spec(self.environment.config.replication_factor)])

    def _over(self, control: ControlTopic, folder: Path, journal: Journal, phase: Phase) -> Journal:
        """All changes are made: let the pipeline go on."""
        if phase is Phase.DONE:
            write_journal(folder, journal.model_copy(update={"phase": Phase.RESUMING}))
        control.set_desired(ComponentKind.PIPELINE, self.pipeline, journal.before)
        journal = journal.model_copy(update={"phase": phase})
        write_journal(folder, journal)
        return journal

    def _go_on(self, control: ControlTopic, state: DesiredState) -> bool:
        """Take the order to stop back, as far as the log lets us."""
        try:
            control.set_desired(ComponentKind.PIPELINE, self.pipeline, state)
        except LogError as error:
            # What led here is raised; this only says that the order to stop still holds.
            _log.error("pipeline_stays_stopped", pipeline=self.pipeline, error=str(error))
            return False
        return True


def _positions(offsets: Mapping[TopicPartition, OffsetAndMetadata] | None) -> tuple[Position, ...] | None:
    if offsets is None:
        return None
    return tuple(Position.of(here, each) for here, each in sorted(offsets.items()))


def _placed(position: Position, back: PutBack | None) -> Position:
    """A position among records that lie elsewhere now."""
    if back is None:
        return position
    kept = Checkpoint.from_commit(position.here, position.committed)
    progress = {
        index: each._replace(offset=back.offset(position.partition, each.offset))
        for index, each in kept.progress.items()
    }
    moved = replace(kept, offset=back.offset(position.partition, kept.offset), progress=progress)
    return Position.of(position.here, moved.to_commit(position.here))


def _empty(admin: Admin, topic: TopicDescription) -> None:
    ends = admin.end_offsets([TopicPartition(topic.name, number) for number in range(topic.partitions)])
    held = {here: end for here, end in ends.items() if end}
    if held:
        admin.delete_records(held)
