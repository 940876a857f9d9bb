"""One subtopology at work, for all partitions that this process owns.

Owns the operators of the subtopology and the clocks of their outputs. Owns no log, transaction or position: rows come
in as frames and leave through `emit`.

- A pass runs every step once, in topological order; a step sees all rows of its inputs of that pass.
- Each step's output has a closing time per partition (`headrace.engine.stream_time`): no row with a smaller stream time
  is still to come. A row-wise step has its input's, a step with several inputs the smallest of theirs, a stateful one
  says what it can promise (`output_closing_ms`).
- A pass with `flush` also takes out what a commit publishes; after it, operators hold nothing back. What was promised
  for a step that speaks at flushes holds until its next one.
- A step that must tell every change (`headrace.engine.every_change`) is flushed as often as it takes.
- Streams of one task share a clock, and so do its tables; tables that are only looked up move none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import polars as pl

from headrace.engine.dead_letters import DeadLetters
from headrace.engine.every_change import every_change, tellers
from headrace.engine.operator import (
    PARTITION,
    SEQUENCE,
    STREAM_TIME,
    TIME,
    LookupTable,
    Operator,
    RowError,
    StatefulOperator,
    TakesLate,
    WakesUp,
)
from headrace.engine.operators.map_async import MapAsync
from headrace.engine.row_picks import columns_of, put
from headrace.engine.stream_time import BEFORE_ALL_MS, with_stream_time
from headrace.engine.watch import Working
from headrace.flow.plan import Plan, Subtopology
from headrace.flow.steps import AnyStep, LateStep, LookupJoinStep, RepartitionStep, SinkStep, SourceStep
from headrace.flow.values import StatefulStep

Emit = Callable[[SinkStep | RepartitionStep, pl.DataFrame], None]
Clocks = dict[int, int]


EMPTY_FRAMES_KEPT_MAX = 4096
"""Of all plans of a process; one for each different list of columns."""


class StepContext:
    """What an operator may use of its task (`OperatorContext`)."""

    def __init__(
        self, step: str, dead_letters: DeadLetters, dropped: Counter[tuple[str, str]], now_ms: Callable[[], int]
    ) -> None:
        self._step, self._dead_letters, self._dropped, self._now_ms = step, dead_letters, dropped, now_ms
        self.closing: dict[int, int] = {}

    def dead_letter(self, frame: pl.DataFrame, errors: Sequence[RowError], *, input_index: int | None = 0) -> None:
        self._dead_letters.add_rows(frame, errors, step=self._step, stage="process", input_index=input_index)

    def count_dropped(self, reason: str, count: int) -> None:
        if count:
            self._dropped[self._step, reason] += count

    def closing_time_ms(self) -> Mapping[int, int]:
        return self.closing

    def now_ms(self) -> int:
        return self._now_ms()


class SubtopologyRunner:
    """Runs the steps of one subtopology over frames."""

    def __init__(
        self,
        plan: Plan,
        subtopology: Subtopology,
        operators: Mapping[str, Operator],
        schemas: Mapping[str, Mapping[str, pl.DataType]],
        contexts: Mapping[str, StepContext],
    ) -> None:
        self.index = subtopology.index
        self.steps: list[AnyStep] = [plan.step(name) for name in subtopology.steps]
        self._by_name = {step.name: step for step in plan.steps}
        self._sources = [step for step in self.steps if isinstance(step, SourceStep)]
        self._arriving = _arriving(plan)
        self._operators = operators
        self._wakers = [each for each in operators.values() if isinstance(each, WakesUp)]
        self.stateful = {
            step.name: cast(StatefulOperator, operators[step.name])
            for step in self.steps
            if isinstance(step, StatefulStep)
        }
        """Operators with a changelog, by step name."""
        self.lookups = {
            step.name: cast(LookupTable, operators[step.name])
            for step in self.steps
            if isinstance(step, LookupJoinStep)
        }
        """Operators that hold a table to look rows up in, by step name."""
        self._acts_at_flush = (
            bool(self.stateful)
            or any(isinstance(each, MapAsync) for each in operators.values())
            or any(isinstance(step, RepartitionStep) for step in self.steps)
        )
        """Whether a commit's pass without rows may give some, or marks. Where rows are only changed and looked up, it
        finds everything as the last pass left it."""
        self._schemas = schemas
        self._columns = {step: list(schema) for step, schema in schemas.items()}
        self._empties = {step: _empty_frame(tuple(schema.items())) for step, schema in schemas.items()}
        self._contexts = contexts
        self._tellers = tellers(plan)
        self.source_clock: Clocks = {}
        self.table_clock: Clocks = {}
        self.repartition_clock: dict[str, Clocks] = {}
        """Closing time by repartition topic and partition, set by the owner of the marks."""
        self.closing: dict[str, Clocks] = {}
        self._sequence = 0
        """The `SEQUENCE` of the next row."""
        self._flushed: dict[str, Clocks] = {}
        """Closing time of the output at the last flush, of steps that speak at flushes."""
        self._flushed_committed: dict[str, Clocks] = {}
        self.table_rows: dict[str, list[pl.DataFrame]] = {}
        """Rows of looked-up tables since the last commit, by topic."""
        self._looked_up = frozenset(self.lookup_topics(broadcast=False))
        self.working_on: Working | None = None
        """The step at work, for whoever looks on from another thread."""
        self.rows: Counter[tuple[str, str]] = Counter()
        """Rows so far by step and `in` or `out`, committed or not."""

    def operator(self, step: str) -> Operator:
        return self._operators[step]

    def run(self, rows: Mapping[str, pl.DataFrame], emit: Emit, *, flush: bool = False) -> None:
        """One pass. `rows` by topic: source rows without `STREAM_TIME`, repartition rows with it."""
        if flush and not rows and self.closing and not self._acts_at_flush:
            return
        outputs = self._with_sources(self._numbered(rows))
        for topic in self._looked_up & rows.keys():
            self.table_rows.setdefault(topic, []).append(rows[topic])
        for step in self.steps:
            if isinstance(step, SourceStep):
                continue
            inputs = [self._input(name, outputs) for name in step.inputs]
            if isinstance(step, SinkStep | RepartitionStep):
                self._hand_over(step, inputs[0], emit)
                continue
            self.working_on = (step.name, time.monotonic())
            try:
                outputs[step.name] = self._run_step(step, inputs, flush=flush)
            finally:
                self.working_on = None

    def _hand_over(self, step: SinkStep | RepartitionStep, frame: pl.DataFrame, emit: Emit) -> None:
        self.closing[step.name] = self.closing[step.inputs[0]]
        if frame.height:
            self.rows[step.name, "in"] += frame.height
            emit(step, frame)

    def _numbered(self, rows: Mapping[str, pl.DataFrame]) -> Mapping[str, pl.DataFrame]:
        """`SEQUENCE` goes on from earlier passes: rows that wait for a flush keep their place among later ones."""
        first = self._sequence
        numbered = dict(rows)
        if first:
            numbered = {
                topic: put(frame, pl.Series(SEQUENCE, frame[SEQUENCE].to_numpy() + first))
                for topic, frame in rows.items()
            }
        lasts = [int(frame[SEQUENCE].to_numpy().max()) for frame in numbered.values() if frame.height]
        self._sequence = max([first, *(last + 1 for last in lasts)])
        return numbered

    def _with_sources(self, rows: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """Frames by step name for everything that comes from outside."""
        sources = self._sources
        streams = {s.topic: rows[s.topic] for s in sources if not s.is_table and s.topic in rows}
        tables = {s.topic: rows[s.topic] for s in sources if s.is_table and s.topic in rows}
        timed = {**_timed(streams, self.source_clock), **_timed(tables, self.table_clock)}
        outputs: dict[str, pl.DataFrame] = {}
        for step in sources:
            frame = timed.get(step.topic)
            columns = self._columns[step.name]
            outputs[step.name] = self._empty(step.name) if frame is None else columns_of(frame, columns)
            self.closing[step.name] = self.table_clock if step.is_table else self.source_clock
        for topic, frame in rows.items():
            for step_name in self._arriving.get(topic, ()):
                outputs[step_name] = columns_of(frame, self._columns[step_name])
        return outputs

    def _input(self, name: str, outputs: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        if name not in self.closing:
            self.closing[name] = {}
        frame = outputs[name] if name in outputs else self._empty(name)
        step = self._by_name[name]
        if isinstance(step, RepartitionStep):
            self.closing[name] = self.repartition_clock.setdefault(step.topic, {})
        return frame

    def _run_step(self, step: AnyStep, inputs: Sequence[pl.DataFrame], *, flush: bool) -> pl.DataFrame:
        output = self._step_output(step, inputs, flush=flush)
        self.rows[step.name, "in"] += sum(frame.height for frame in inputs)
        self.rows[step.name, "out"] += output.height
        return output

    def _step_output(self, step: AnyStep, inputs: Sequence[pl.DataFrame], *, flush: bool) -> pl.DataFrame:
        if isinstance(step, LateStep):
            self.closing[step.name] = self._contexts[step.inputs[0]].closing
            return self._late(step)
        operator, context = self._operators[step.name], self._contexts[step.name]
        context.closing = self._closing_of(step)
        if isinstance(step, StatefulStep):
            return self._run_stateful(step, inputs, context, flush=flush)
        if isinstance(operator, MapAsync):
            output = operator.process(inputs, context)
            if flush:
                output = pl.concat([output, operator.flush(context)])
            self.closing[step.name] = dict(operator.settled_closing_ms)
            return output
        self.closing[step.name] = context.closing
        if not any(frame.height for frame in inputs):
            return self._empty(step.name)
        return operator.process(inputs, context)

    def _run_stateful(
        self, step: StatefulStep, inputs: Sequence[pl.DataFrame], context: StepContext, *, flush: bool
    ) -> pl.DataFrame:
        operator = self.stateful[step.name]
        pieces = []
        tells_all = step.name in self._tellers and operator.speaks_at_flush
        if tells_all and any(frame.height for frame in inputs):

            def tell(piece: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
                return [operator.process(piece, context), operator.flush(context)]

            pieces += every_change(step, inputs, tell, one_by_one=self._tellers[step.name])
        elif any(frame.height for frame in inputs):
            pieces.append(operator.process(inputs, context))
        pieces.append(operator.advance(context))
        if flush:
            pieces.append(operator.flush(context))
        self._promise(step.name, operator, context.closing, flush=flush or tells_all)
        return self._joined(step.name, pieces)

    def _promise(self, step: str, operator: StatefulOperator, closing: Clocks, *, flush: bool) -> None:
        """Set the closing time of a stateful step's output."""
        if flush or not operator.speaks_at_flush:
            self.closing[step] = dict(operator.output_closing_ms(closing))
            if operator.speaks_at_flush:
                self._flushed[step] = self.closing[step]
        else:
            self.closing[step] = self._flushed.get(step, {})

    def _joined(self, step: str, pieces: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """What a stateful step gave in one pass."""
        filled = [columns_of(piece, self._columns[step]) for piece in pieces if piece.height]
        if len(filled) <= 1:
            return filled[0] if filled else self._empty(step)
        return pl.concat(filled)

    def _late(self, step: LateStep) -> pl.DataFrame:
        operator = self._operators[step.inputs[0]]
        assert isinstance(operator, TakesLate), "only steps that hand late rows on have readers of them"
        late = operator.take_late()
        return late[self._columns[step.name]] if late.height else self._empty(step.name)

    def _closing_of(self, step: AnyStep) -> Clocks:
        names = step.inputs[:1] if isinstance(step, LookupJoinStep) else step.inputs
        if len(names) == 1:
            return self.closing[names[0]]
        inputs = [self.closing[name] for name in names]
        partitions = {partition for clock in inputs for partition in clock}
        return {p: min(clock.get(p, BEFORE_ALL_MS) for clock in inputs) for p in partitions}

    def close_idle(self, step: StatefulStep, partitions: Sequence[int], emit: Emit) -> None:
        """Close what a step holds open in idle partitions, and send what follows down the steps."""
        operator, context = self.stateful[step.name], self._contexts[step.name]
        closed = self._joined(step.name, [operator.close_idle(partitions, context)])
        self.rows[step.name, "out"] += closed.height
        self._promise(step.name, operator, context.closing, flush=False)
        if not closed.height:
            return
        self._go_on({step.name: closed}, self._place(step.name) + 1, emit)

    def _place(self, step: str) -> int:
        return [each.name for each in self.steps].index(step)

    def _go_on(self, outputs: dict[str, pl.DataFrame], first: int, emit: Emit) -> None:
        """Bring what some steps gave down the steps from number `first` on; steps without rows are left out."""
        for later in self.steps[first:]:
            inputs = [self._input(name, outputs) for name in later.inputs]
            if isinstance(later, SourceStep) or not any(frame.height for frame in inputs):
                continue
            if isinstance(later, SinkStep | RepartitionStep):
                self._hand_over(later, inputs[0], emit)
            else:
                outputs[later.name] = self._run_step(later, inputs, flush=False)

    def input_schema(self, step: str, input_index: int) -> Mapping[str, pl.DataType]:
        """The columns of a step's input, as far as it has so many; else of none."""
        inputs = self._by_name[step].inputs
        return self._schemas[inputs[input_index]] if input_index < len(inputs) else {}

    def replay(self, step: str, input_index: int, frame: pl.DataFrame, emit: Emit) -> None:
        """Rows that come to one input of a step once more, and to nothing beside or above it.

        `frame` has the columns of that input but `SEQUENCE`. A row is judged by the time that the task has come to
        since: what is closed stays closed, and no clock moves for it.
        """
        self.run({}, emit)  # After this the closing times are those of now, also right after a restore.
        entry, place = self._by_name[step], self._place(step)
        name = entry.inputs[input_index]
        now_ms = self.closing.get(name, {})
        reached = np.array([now_ms.get(partition, BEFORE_ALL_MS) for partition in frame[PARTITION].to_list()], np.int64)
        timed = frame.with_columns(
            pl.Series(STREAM_TIME, np.maximum(frame[STREAM_TIME].to_numpy(), reached)),
            pl.int_range(self._sequence, self._sequence + frame.height, dtype=pl.Int64).alias(SEQUENCE),
        )
        self._sequence += frame.height
        inputs = [self._empty(each) for each in entry.inputs]
        inputs[input_index] = timed[self._columns[name]]
        if isinstance(entry, SinkStep | RepartitionStep):
            self._hand_over(entry, inputs[0], emit)
            return
        self.working_on = (step, time.monotonic())
        try:
            self._go_on({step: self._run_step(entry, inputs, flush=False)}, place + 1, emit)
        finally:
            self.working_on = None

    def wake_at_ms(self) -> int | None:
        """When an operator wants a pass by the wall clock."""
        wanted = [each.wake_at_ms() for each in self._wakers]
        return min((at_ms for at_ms in wanted if at_ms is not None), default=None)

    # Tables that are looked up

    def load_table(self, topic: str, frame: pl.DataFrame) -> None:
        """Give rows of a table's topic to the joins that look them up, and to nobody else."""
        for name, operator in self.lookups.items():
            chain = self._lookup_chain(name)
            source = chain[0]
            if not isinstance(source, SourceStep) or source.topic != topic:
                continue
            rows = frame.with_columns(pl.col(TIME).alias(STREAM_TIME))[self._columns[source.name]]
            for step in chain[1:]:
                rows = self.passed(step.name, rows)
            operator.load_table(rows)

    def passed(self, step: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows through one row-wise step, outside of a pass."""
        return self._operators[step].process([rows], self._contexts[step])

    def lookup_topics(self, *, broadcast: bool) -> list[str]:
        """Topics of tables that are looked up."""
        sources = [self._lookup_chain(name)[0] for name in self.lookups]
        topics = [s.topic for s in sources if isinstance(s, SourceStep) and s.is_broadcast is broadcast]
        return list(dict.fromkeys(topics))

    def table_columns(self, topic: str) -> list[str]:
        """What a row of a looked-up table consists of."""
        source = next(s for s in self.steps if isinstance(s, SourceStep) and s.topic == topic)
        return [name for name in self._schemas[source.name] if name != STREAM_TIME]

    def _lookup_chain(self, join: str) -> list[AnyStep]:
        """From the source of a join's table down to what the join reads."""
        chain = [self._by_name[self._by_name[join].inputs[1]]]
        while chain[0].inputs:
            chain.insert(0, self._by_name[chain[0].inputs[0]])
        return chain

    # Commit, undo, moves

    def commit(self) -> None:
        """What operators hold is behind a committed position."""
        self._sequence = 0  # No row waits longer than for the flush before a commit.
        for stateful in self.stateful.values():
            stateful.commit()
        for lookup in self.lookups.values():
            lookup.commit()
        self.table_rows = {}
        self._flushed_committed = dict(self._flushed)

    def rollback(self) -> None:
        """Operators go back to the last commit."""
        self._sequence = 0
        for operator in self._operators.values():
            if isinstance(operator, MapAsync):
                operator.rollback()
        for stateful in self.stateful.values():
            stateful.rollback()
        for lookup in self.lookups.values():
            lookup.rollback()
        self.table_rows = {}
        self._flushed = dict(self._flushed_committed)
        self.closing.clear()

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop clocks and state of partitions that moved away."""
        for stateful in self.stateful.values():
            for partition in partitions:
                stateful.forget(partition)
        for lookup in self.lookups.values():
            lookup.forget_table(partitions)
        clocks = [self.source_clock, self.table_clock, *self.repartition_clock.values(), *self._flushed.values()]
        for clock in clocks:
            for partition in partitions:
                clock.pop(partition, None)

    def _empty(self, step: str) -> pl.DataFrame:
        return self._empties[step]


def _arriving(plan: Plan) -> dict[str, list[str]]:
    """Repartition steps by the topic that their rows come back from."""
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        if isinstance(step, RepartitionStep):
            found.setdefault(step.topic, []).append(step.name)
    return found


def _timed(frames: Mapping[str, pl.DataFrame], clock: Clocks) -> dict[str, pl.DataFrame]:
    """Rows of several source topics with the stream time that they share; `clock` is moved."""
    if len(frames) <= 1:
        return {topic: with_stream_time(frame, clock) for topic, frame in frames.items()}
    together = pl.concat(
        frame.select(PARTITION, TIME, SEQUENCE, pl.lit(topic).alias("topic")) for topic, frame in frames.items()
    ).sort(SEQUENCE, maintain_order=True)
    timed = with_stream_time(together, clock)
    return {
        topic: frame.with_columns(timed.filter(pl.col("topic") == topic)[STREAM_TIME])
        for topic, frame in frames.items()
    }


@lru_cache(maxsize=EMPTY_FRAMES_KEPT_MAX)
def _empty_frame(schema: tuple[tuple[str, pl.DataType], ...]) -> pl.DataFrame:
    """Making one costs milliseconds where columns are nested."""
    return pl.DataFrame(schema=dict(schema))
