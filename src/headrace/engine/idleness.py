"""Partitions without input: whom they hold up, and what closes because of them.

Owns which partitions are idle, and the two things that follow: marks to tasks downstream, and `idle_close`.

- A partition is idle after some time without a record, when nothing is left in it to read.
- Before anybody is told, or windows close, the log is asked again: what others have read by then was written before.
- An upstream task that said it is idle is left out when everything it reads is processed, by the group's offsets as
  of a moment after it was heard: it may be dead, with records to read, or have some again.
- Positions that moved without a row (behind marks of transactions) are committed too, so that others see them.
- A row that waits for another input is not processed; its partition is not idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from headrace.engine.assembly import Assembly
from headrace.engine.repartition import Marks
from headrace.engine.retry import Patience
from headrace.engine.tasks import Task
from headrace.flow.plan import idle_close_ms
from headrace.flow.steps import AnyStep, RepartitionStep
from headrace.flow.values import StatefulStep
from headrace.log.port import TopicPartition

COMMITS_BEFORE_IDLE = 2
"""A task that has nothing to read is idle after so many commit intervals at least: by then its last rows are committed
and can be read by those who are told."""
DRIFT_INTERVAL_S = 1.0
"""How often positions are looked at that moved without a row."""


def caught_up(parts: Assembly, partitions: Sequence[TopicPartition], patience: Patience) -> set[TopicPartition]:
    """Those of the partitions with nothing left to read."""
    consumer = parts.consumer
    # Behind open transactions too: one that was decided may still lack its markers, and its rows are to come.
    ends = patience.call(lambda: consumer.end_offsets(partitions, committed=False))
    positions = consumer.position(partitions)
    return {here for here in partitions if positions[here] >= ends[here]}


@dataclass(slots=True)
class _Doubt:
    """A repartition input whose time idle origins hold back."""

    reached_ms: int
    """How far it would go without them."""
    idle: frozenset[int]
    since_s: float
    ticket: int | None = None


class Idleness:
    """Of one worker. `begin` opens the transaction that marks and closed windows belong to."""

    def __init__(
        self, parts: Assembly, *, idle_after_ms: int, commit_interval_ms: int, begin: Callable[[], None]
    ) -> None:
        self._parts, self._begin = parts, begin
        self._idle_after_ms = max(idle_after_ms, COMMITS_BEFORE_IDLE * commit_interval_ms)
        self._doubts: dict[TopicPartition, _Doubt] = {}
        self._tickets: dict[tuple[int, int], int] = {}
        """Open questions before tasks (subtopology, partition) close windows."""
        self._drift_at_s = 0.0
        self._quiet_since: dict[TopicPartition, float] = {}
        self._idle: set[TopicPartition] = set()
        self._asked_at = 0.0
        self._closed: set[tuple[str, int]] = set()
        """Steps and partitions that `idle_close` has closed since their last input."""

    def note_input(self, topic: str, partitions: Iterable[int], now: float) -> None:
        """Records came."""
        for partition in partitions:
            self._quiet_since[TopicPartition(topic, partition)] = now
            self._closed -= {key for key in self._closed if key[1] == partition}

    def assigned(self, gained: Sequence[TopicPartition], now: float) -> None:
        """Their silence begins now."""
        self._quiet_since.update(dict.fromkeys(gained, now))

    def forget(self, gone: Sequence[TopicPartition]) -> None:
        """Partitions moved away."""
        self._idle.difference_update(gone)
        for here in gone:
            self._quiet_since.pop(here, None)

    def look(self, now: float, patience: Patience) -> None:
        """Note who is idle, and do what is due because of it."""
        parts = self._parts
        quiet = [
            here
            for here in parts.tasks.active()
            if (now - self._quiet_since.setdefault(here, now)) * 1000 >= self._idle_after_ms
        ]
        self._idle.intersection_update(quiet)
        unknown = sorted(set(quiet) - self._idle)
        if unknown and now - self._asked_at >= self._idle_after_ms / 1000:
            self._asked_at = now
            self._idle.update(caught_up(parts, unknown, patience))
        if any(self.marks().values()):
            self._begin()
        self._trust(now, patience)
        for task in parts.tasks.tasks:
            self._close(task, now, patience)
        if not parts.committer.is_open and now - self._drift_at_s >= DRIFT_INTERVAL_S:
            self._drift_at_s = now
            if parts.tasks.has_moved():
                self._begin()

    def _trust(self, now: float, patience: Patience) -> None:
        """Let time go on without origins that are idle beyond doubt."""
        tasks, upstream = self._parts.tasks, self._parts.upstream
        ahead = tasks.ahead()
        for here in [
            each for each in self._doubts if each not in ahead or not self._doubts[each].idle <= ahead[each][1]
        ]:
            # An origin has rows again, or was passed.
            self._drop(self._doubts.pop(here))
        for here, (reached_ms, idle) in ahead.items():
            doubt = self._doubts.setdefault(here, _Doubt(reached_ms, idle, now))
            if (now - doubt.since_s) * 1000 < self._idle_after_ms:
                continue
            places = tasks.upstream(here.topic, doubt.idle)
            if places <= tasks.active():
                answer: bool | None = self._are_idle(places, patience)
            else:
                doubt.ticket = doubt.ticket or upstream.ask(sorted(places))
                answer = upstream.answer(doubt.ticket)
            if answer is None:
                continue
            # What is refused, and what time reached since, is asked about after the same while again.
            del self._doubts[here]
            if answer and not tasks.has_waiting(here) and caught_up(self._parts, [here], patience):
                tasks.trust(here, min(doubt.reached_ms, reached_ms))

    def _drop(self, doubt: _Doubt) -> None:
        if doubt.ticket is not None:
            self._parts.upstream.forget(doubt.ticket)

    def _are_idle(self, places: Set[TopicPartition], patience: Patience) -> bool:
        """Of partitions that this process reads."""
        self.look_again(patience)
        return places <= self._idle

    def look_again(self, patience: Patience) -> None:
        """Whether the idle partitions still are: before anybody is told so, or windows close for it."""
        if self._idle:
            self._idle.intersection_update(caught_up(self._parts, sorted(self._idle), patience))

    def _is_idle(self, task: Task, partition: int) -> bool:
        if partition in task.queue.partitions_waiting():
            return False
        return all(here in self._idle for here in self._parts.tasks.stream_reads(task, partition)) and (
            self._parts.tasks.all_origins_idle(task, partition)
        )

    def marks(self) -> dict[str, Marks]:
        """What the readers of repartition topics should know, by step."""
        parts = self._parts
        due: dict[str, Marks] = {}
        for task in parts.tasks.tasks:
            steps = [step for step in task.runner.steps if isinstance(step, RepartitionStep)]
            if not steps:
                continue
            idle = frozenset(p for p in task.partitions if self._is_idle(task, p))
            for step in steps:
                closing = task.runner.closing.get(step.inputs[0], {})
                here = {p: ms for p, ms in closing.items() if p in task.partitions}
                due[step.name] = parts.outbox.marks_due(step.name, sorted(task.partitions), here, idle)
        return due

    def _close(self, task: Task, now: float, patience: Patience) -> None:
        for step in task.runner.steps:
            if not isinstance(step, StatefulStep) or idle_close_ms(step) is None:
                continue
            due = [p for p in sorted(task.partitions) if self._close_is_due(task, step, p, now)]
            due = [p for p in due if self._is_confirmed(task, p)]
            if not due:
                continue
            self.look_again(patience)
            due = [p for p in due if self._close_is_due(task, step, p, now)]
            if due:
                self._begin()
                task.runner.close_idle(step, due, self._parts.outbox.emit)
                self._closed.update((step.name, partition) for partition in due)

    def _is_confirmed(self, task: Task, partition: int) -> bool:
        """Whether nothing is on its way to a task from other processes."""
        tasks, upstream = self._parts.tasks, self._parts.upstream
        places: set[TopicPartition] = set()
        for here, origins in tasks.origins_of(task, partition).items():
            places |= tasks.upstream(here.topic, range(origins))
        if places <= tasks.active():
            return True
        key = (task.runner.index, partition)
        if key not in self._tickets:
            self._tickets[key] = upstream.ask(sorted(places))
        answer = upstream.answer(self._tickets[key])
        if answer is not None:
            del self._tickets[key]
        return bool(answer)

    def _close_is_due(self, task: Task, step: AnyStep, partition: int, now: float) -> bool:
        after_ms = idle_close_ms(step)
        assert after_ms is not None
        if (step.name, partition) in self._closed or not self._is_idle(task, partition):
            return False
        quiet = [self._quiet_since.get(here, now) for here in self._parts.tasks.stream_reads(task, partition)]
        return (now - max(quiet)) * 1000 >= after_ms
