"""The tasks of one process: which partitions run here, from where, with which clocks.

Owns input queues, progress and restore. A task is one partition number of one subtopology.

- A task runs only while this process owns its partition of every topic that the subtopology reads; until then the
  partitions it has are paused and hold no state.
- Progress and clocks are those of processed rows. `checkpoints` tells them for a commit, `committed` keeps them,
  `rewind` goes back to the last kept ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.engine.checkpoint import TOPIC_ID_CHARACTERS, Checkpoint, Progress
from headrace.engine.input_queue import INDEX, OFFSET, Input, InputQueue
from headrace.engine.operator import PARTITION, SEQUENCE
from headrace.engine.repartition import Marks
from headrace.engine.row_picks import partitions_of_rows, pick
from headrace.engine.state_restore import StateRestorer
from headrace.engine.stream_time import BEFORE_ALL_MS, OriginMarks
from headrace.engine.subtopology import SubtopologyRunner
from headrace.engine.topic_identity import check_growth, check_identity, check_same, position_lost
from headrace.flow.plan import Delivery, Plan
from headrace.flow.steps import RepartitionStep
from headrace.log.port import Consumer, TopicDescription, TopicPartition


class Task:
    """Progress of one subtopology over all partitions of this process."""

    def __init__(self, runner: SubtopologyRunner, inputs: Sequence[Input], *, max_wait_ms: int) -> None:
        self.runner = runner
        self.queue = InputQueue(inputs, max_wait_ms=max_wait_ms)
        self.partitions: set[int] = set()
        """Running now."""
        self.resume_at: dict[TopicPartition, tuple[int, int]] = {}
        """Rows before these (offset, index) are processed already and dropped when they are read again."""

    def reads(self, partition: int) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for topic in self.queue.inputs]


class TaskSet:
    """All tasks of one pipeline in one process."""

    def __init__(
        self,
        tasks: Sequence[Task],
        consumer: Consumer,
        restorer: StateRestorer,
        *,
        plan: Plan,
        topics: Callable[[], Mapping[str, TopicDescription]],
        partitions_of: Mapping[str, int],
        origins_of: Mapping[str, int],
    ) -> None:
        self.tasks = tasks
        self._plan, self._topics = plan, topics
        self._topic_ids: dict[str, str] = {}
        """The beginnings of their ids, as of the last assignment."""
        self._consumer = consumer
        self._restorer = restorer
        self._partitions_of = partitions_of
        self._origins_of = origins_of
        self._assigned: set[TopicPartition] = set()
        self._committed: set[TopicPartition] = set()
        """Of those, the ones with an offset in the group."""
        self._kept: dict[TopicPartition, Checkpoint] = {}
        """As last committed."""
        self._marks: dict[TopicPartition, OriginMarks] = {}
        self._coming_marks: dict[TopicPartition, deque[tuple[int, Marks]]] = {}
        self._active: frozenset[TopicPartition] | None = None
        """See `active`; None: to be found again."""
        self._moved: set[int] = set()
        """Subtopologies whose closing time moved without a row or mark."""

    def active(self) -> frozenset[TopicPartition]:
        """Partitions that running tasks read."""
        if self._active is None:
            self._active = frozenset(
                here for task in self.tasks for partition in task.partitions for here in self._reads(task, partition)
            )
        return self._active

    def repartition_topics(self) -> frozenset[str]:
        """Topics that tasks of this pipeline write and read."""
        return frozenset(self._origins_of)

    def _reads(self, task: Task, partition: int) -> list[TopicPartition]:
        return [here for here in task.reads(partition) if partition < self._partitions_of[here.topic]]

    def assign(self, gained: Sequence[TopicPartition], now_ms: int) -> None:
        """Take over partitions: restore what became complete, pause the rest."""
        self._identify()
        committed = self._consumer.committed(gained)
        begins = self._consumer.beginning_offsets([here for here in gained if here not in committed])
        for here in gained:
            if here in committed:
                self._kept[here] = Checkpoint.from_commit(here, committed[here])
                check_identity(self._plan.name, here, self._kept[here], self._topic_ids)
            else:
                self._kept[here] = Checkpoint(begins[here])
        self._assigned.update(gained)
        self._committed.update(committed)
        for task in self.tasks:
            self._activate(task, self._complete(task) - task.partitions)
        idle = set(gained) - self.active()
        self._consumer.seek({here: self._kept[here].offset for here in idle})
        self._consumer.pause(sorted(idle))

    def _identify(self) -> None:
        """Which topics these are. Raises `TopicsGrew`, `TopicRecreated`."""
        now = self._topics()
        reads = sorted({topic for task in self.tasks for topic in task.queue.inputs})
        check_growth(self._partitions_of, now, reads)
        known = {topic: now[topic].topic_id[:TOPIC_ID_CHARACTERS] for topic in reads if topic in now}
        check_same(self._plan.name, self._topic_ids, known)
        self._topic_ids = known

    def _check_positions(self, task: Task, partitions: set[int]) -> None:
        """State is what came before a position. At least once, the first commit of positions may be missing."""
        if self._plan.delivery is not Delivery.EXACTLY_ONCE:
            return
        for partition in sorted(partitions):
            if self._committed.isdisjoint(self._reads(task, partition)) and self._restorer.has_state(
                task.runner, partition
            ):
                raise position_lost(self._plan.name, self._plan.subtopologies[task.runner.index], partition)

    def _complete(self, task: Task) -> set[int]:
        """Partition numbers of which every topic is here."""
        numbers = {here.partition for here in self._assigned if here.topic in task.queue.inputs}
        return {n for n in numbers if all(here in self._assigned for here in self._reads(task, n))}

    def _activate(self, task: Task, partitions: set[int]) -> None:
        if not partitions:
            return
        here = [each for partition in sorted(partitions) for each in self._reads(task, partition)]
        for other in self.tasks:
            self._read_again(other, [each for each in here if each.partition in other.partitions])
        self._restorer.restore(task.runner, sorted(partitions), {each: self._kept[each] for each in here})
        self._check_positions(task, partitions)
        task.partitions |= partitions
        self._active = None
        for each in here:
            self._load(task, each)
        self._consumer.seek({each: self._kept[each].offset for each in here})
        self._consumer.resume(here)

    def _read_again(self, task: Task, shared: Sequence[TopicPartition]) -> None:
        """Partitions that `task` reads too are about to be rewound: let it pass over what it has processed."""
        for here in shared:
            if here.topic in task.queue.inputs:
                task.resume_at[here] = self._next_row(task, here, self._consumer.position([here])[here])
                done_ms = task.queue.done_ms(here)
                task.queue.forget([here])
                task.queue.start_at(here, done_ms)

    def _load(self, task: Task, here: TopicPartition) -> None:
        """Set queue and clocks of one partition to its kept checkpoint."""
        kept = self._kept[here]
        progress = kept.of(task.runner.index)
        task.queue.forget([here])
        task.queue.start_at(here, progress.merged_ms)
        task.resume_at[here] = (progress.offset, progress.rows_done)
        clock = self._clock(task, here)
        if progress.stream_time_ms > clock.get(here.partition, BEFORE_ALL_MS):
            clock[here.partition] = progress.stream_time_ms
        if here.topic in self._origins_of:
            self._marks[here] = kept.marks(self._origins_of[here.topic])
            self._coming_marks[here] = deque()
            task.runner.repartition_clock.setdefault(here.topic, {})[here.partition] = self._marks[here].closing_ms

    def _clock(self, task: Task, here: TopicPartition) -> dict[int, int]:
        """The clock that rows of a source topic move."""
        return task.runner.table_clock if task.queue.inputs[here.topic].is_table else task.runner.source_clock

    def give_up(self, lost: Sequence[TopicPartition], *, are_lost: bool = False) -> list[int]:
        """Partitions moved away (`are_lost`: to others already): stop their tasks, forget their state. Returns the
        partition numbers that stopped."""
        self._assigned.difference_update(lost)
        self._committed.difference_update(lost)
        stopped: set[int] = set()
        for task in self.tasks:
            ended = task.partitions - self._complete(task)
            if not ended:
                continue
            task.partitions -= ended
            self._active = None
            stopped |= ended
            task.runner.forget(sorted(ended))
            reads = [each for partition in ended for each in task.reads(partition) if each in self._kept]
            kept = {each: self._kept[each] for each in reads}
            self._restorer.give_up(task.runner, sorted(ended), kept, are_lost=are_lost)
            for partition in ended:
                task.queue.forget(task.reads(partition))
                for here in task.reads(partition):
                    task.resume_at.pop(here, None)
        for here in lost:
            self._kept.pop(here, None)
            self._marks.pop(here, None)
            self._coming_marks.pop(here, None)
        self._consumer.pause(sorted(self._assigned - self.active()))
        return sorted(stopped)

    def note_more(self, now_ms: int) -> None:
        """See `InputQueue.note_more`."""
        for task in self.tasks:
            task.queue.note_more(now_ms)

    def add(self, topic: str, frame: pl.DataFrame, now_ms: int) -> None:
        """Rows just read, with `OFFSET` and `INDEX`."""
        for task in self.tasks:
            if topic in task.queue.inputs:
                task.queue.add(topic, self._unprocessed(task, topic, frame), now_ms)

    def _unprocessed(self, task: Task, topic: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Leave out rows of partitions that do not run here and rows that are processed already."""
        partitions, offsets, indexes = (frame[name].to_numpy() for name in (PARTITION, OFFSET, INDEX))
        found = partitions_of_rows(partitions)
        keep: npt.NDArray[np.bool_] | None = None
        if not task.partitions.issuperset(found):
            keep = np.isin(partitions, list(task.partitions))
        for partition in found:
            offset, index = task.resume_at.get(TopicPartition(topic, partition), (0, 0))
            first = int((partitions == partition).argmax())
            if (int(offsets[first]), int(indexes[first])) >= (offset, index):
                continue
            # Only the first records after a restart can lie before the progress.
            new = (partitions != partition) | (offsets > offset) | ((offsets == offset) & (indexes >= index))
            keep = new if keep is None else keep & new
        return frame if keep is None else pick(frame, keep)

    def add_marks(self, here: TopicPartition, offset: int, marks: Marks) -> None:
        """Marks of a repartition message; they count once its rows are processed."""
        if here in self._coming_marks:
            self._coming_marks[here].append((offset, marks))

    def holdups(self) -> set[TopicPartition]:
        """Partitions whose end must be known before waiting rows may go on."""
        return {here for task in self.tasks for here in task.queue.holdups() if here in self._assigned}

    def ready(
        self, task: Task, complete: Iterable[TopicPartition], now_ms: int, rows_max: int
    ) -> Iterator[dict[str, pl.DataFrame]]:
        """Rows whose turn it is, in pieces of at most `rows_max`; marks are taken in before the last piece."""
        missing = [here for here in task.queue.holdups() if here not in self._assigned]
        rows = task.queue.take([*complete, *missing], now_ms)
        pieces = list(_pieces(rows, rows_max))
        yield from pieces[:-1]
        # Only now: a mark may close windows that rows of its own message still go to.
        moved = self._take_marks(task)
        if pieces or moved:
            yield pieces[-1] if pieces else {}

    def _take_marks(self, task: Task) -> bool:
        moved = task.runner.index in self._moved
        self._moved.discard(task.runner.index)
        for partition in task.partitions:
            for here in task.reads(partition):
                coming = self._coming_marks.get(here)
                if not coming:
                    continue
                done, _ = task.queue.next_row(here, behind=coming[-1][0] + 1)
                while coming and coming[0][0] < done:
                    _, marks = coming.popleft()
                    self._marks[here].note(marks.closing_ms, marks.idle)
                    moved = True
                task.runner.repartition_clock[here.topic][partition] = self._marks[here].closing_ms
        return moved

    def ahead(self) -> dict[TopicPartition, tuple[int, frozenset[int]]]:
        """Repartition inputs whose time is held back by idle origins only: how far it would go without, and whose."""
        found: dict[TopicPartition, tuple[int, frozenset[int]]] = {}
        for here in {here for task in self.tasks for partition in task.partitions for here in task.reads(partition)}:
            marks = self._marks.get(here)
            if marks is not None and (reached_ms := marks.ahead_ms()) is not None:
                found[here] = (reached_ms, frozenset(marks.idle))
        return found

    def trust(self, here: TopicPartition, reached_ms: int) -> None:
        """Let the closing time of a repartition input pass its idle origins."""
        self._marks[here].trust(reached_ms)
        for task in self.tasks:
            if here.topic in task.queue.inputs and here.partition in task.partitions:
                task.runner.repartition_clock[here.topic][here.partition] = self._marks[here].closing_ms
                self._moved.add(task.runner.index)

    def has_waiting(self, here: TopicPartition) -> bool:
        """Whether rows of this partition number wait for another input."""
        return any(
            here.partition in task.queue.partitions_waiting() for task in self.tasks if here.topic in task.queue.inputs
        )

    def upstream(self, topic: str, origins: Iterable[int]) -> set[TopicPartition]:
        """Everything that these origins of a repartition topic read, up to the sources."""
        found: set[TopicPartition] = set()
        for task in self.tasks:
            if not any(isinstance(step, RepartitionStep) and step.topic == topic for step in task.runner.steps):
                continue
            for origin in origins:
                found.update(self._reads(task, origin))
            for above in task.queue.inputs:
                if above in self._origins_of:
                    found |= self.upstream(above, range(self._origins_of[above]))
        return found

    def stream_reads(self, task: Task, partition: int) -> list[TopicPartition]:
        """What moves the time of a task: everything it reads but tables, or all of it where it reads only tables."""
        reads = self._reads(task, partition)
        return [here for here in reads if not task.queue.inputs[here.topic].is_table] or reads

    def origins_of(self, task: Task, partition: int) -> dict[TopicPartition, int]:
        """The repartition inputs of a task, with the number of tasks that write to each."""
        return {here: self._marks[here].expected for here in task.reads(partition) if here in self._marks}

    def all_origins_idle(self, task: Task, partition: int) -> bool:
        """Whether every repartition input of a task waits for nobody."""
        marks = [self._marks[here] for here in task.reads(partition) if here in self._marks]
        return all(len(each.idle) >= each.expected for each in marks)

    def _next_row(self, task: Task, here: TopicPartition, behind: int) -> tuple[int, int]:
        # Nothing read since the restart: the progress it started from still holds.
        return max(task.queue.next_row(here, behind), task.resume_at.get(here, (0, 0)))

    def checkpoints(self) -> dict[TopicPartition, Checkpoint]:
        """Progress and clocks of everything that runs here, as of now."""
        found: dict[TopicPartition, dict[int, Progress]] = {}
        behind = self._consumer.position(sorted(self.active()))
        for task in self.tasks:
            for partition in task.partitions:
                for here in self._reads(task, partition):
                    stream_time_ms = self._clock(task, here).get(partition)
                    offset, rows_done = self._next_row(task, here, behind[here])
                    progress = Progress(offset, rows_done, task.queue.done_ms(here))
                    if stream_time_ms is not None and here.topic not in self._origins_of:
                        progress = progress._replace(stream_time_ms=stream_time_ms)
                    found.setdefault(here, {})[task.runner.index] = progress
        return {here: self._checkpoint(here, progress) for here, progress in found.items()}

    def has_moved(self) -> bool:
        """Whether any position differs from the committed one."""
        return any(self._kept[here].offset != now.offset for here, now in self.checkpoints().items())

    def positions(self) -> dict[TopicPartition, int]:
        """The next record to process of all partitions that are here, those of tasks that do not run too."""
        kept = {here: self._kept[here].offset for here in self._assigned}
        return kept | {here: checkpoint.offset for here, checkpoint in self.checkpoints().items()}

    def _checkpoint(self, here: TopicPartition, progress: Mapping[int, Progress]) -> Checkpoint:
        offset = min(each.offset for each in progress.values())
        # Of sources far above too: the offsets of a topic that is deleted go with it, and these stay.
        topic_ids = {topic: topic_id for topic, topic_id in self._topic_ids.items() if topic not in self._origins_of}
        marks = self._marks.get(here)
        if marks is None:
            return Checkpoint(offset, progress, topic_ids=topic_ids)
        return Checkpoint(offset, progress, marks.closing_ms, dict(marks.marks_ms), frozenset(marks.idle), topic_ids)

    def committed(self, checkpoints: Mapping[TopicPartition, Checkpoint]) -> None:
        """These are durable now."""
        self._kept.update(checkpoints)
        self._committed.update(checkpoints)

    def rewind(self) -> None:
        """Back to the last commit: queues empty, clocks as they were, positions to read from again."""
        for task in self.tasks:
            task.runner.source_clock.clear()
            task.runner.table_clock.clear()
            for partition in task.partitions:
                for here in self._reads(task, partition):
                    self._load(task, here)
        self._consumer.seek({here: self._kept[here].offset for here in self.active()})


def _pieces(rows: Mapping[str, pl.DataFrame], rows_max: int) -> Iterator[dict[str, pl.DataFrame]]:
    """Cut frames that share one `SEQUENCE` into pieces of at most `rows_max` rows."""
    total = sum(frame.height for frame in rows.values())
    if total <= rows_max:
        if total:
            yield dict(rows)
        return
    for start in range(0, total, rows_max):
        piece = {topic: _between(frame, start, start + rows_max) for topic, frame in rows.items()}
        yield {topic: frame for topic, frame in piece.items() if frame.height}


def _between(frame: pl.DataFrame, first: int, behind: int) -> pl.DataFrame:
    sequence = frame[SEQUENCE].to_numpy()
    low, high = np.searchsorted(sequence, [first, behind])
    return frame.slice(low, high - low)
