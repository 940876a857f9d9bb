"""One subtopology at work, for all partitions that this process owns.

Owns the operators of the subtopology and the clocks of their outputs. Owns no log, transaction or position: rows come
in as frames and leave through `emit`.

- A pass runs every step once, in topological order; a step sees all rows of its inputs of that pass.
- Each step's output has a closing time per partition (`headrace.engine.stream_time`): a row-wise step has its
  input's, a merge the smallest of its inputs', an aggregate's output has a clock of its own.
- A pass with `flush` also takes out what a commit publishes; after it, operators hold nothing back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import polars as pl

from headrace.engine.dead_letters import DeadLetters
from headrace.engine.operator import (
    PARTITION,
    SEQUENCE,
    STREAM_TIME,
    TIME,
    Operator,
    RowError,
    StatefulOperator,
)
from headrace.engine.operators.map_async import MapAsync
from headrace.engine.operators.table_join import TableJoin
from headrace.engine.stream_time import BEFORE_ALL_MS, with_stream_time
from headrace.flow.plan import (
    AggregateStep,
    AnyStep,
    MergeStep,
    Plan,
    RepartitionStep,
    SinkStep,
    SourceStep,
    Subtopology,
)

Emit = Callable[[SinkStep | RepartitionStep, pl.DataFrame], None]
Clocks = dict[int, int]


class StepContext:
    """What an operator may use of its task (`OperatorContext`)."""

    def __init__(
        self, step: str, dead_letters: DeadLetters, dropped: Counter[tuple[str, str]], now_ms: Callable[[], int]
    ) -> None:
        self._step, self._dead_letters, self._dropped, self._now_ms = step, dead_letters, dropped, now_ms
        self.closing: dict[int, int] = {}

    def dead_letter(self, frame: pl.DataFrame, errors: Sequence[RowError]) -> None:
        self._dead_letters.add_rows(frame, errors, step=self._step, stage="process")

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
        self._plan = plan
        self._operators = operators
        self._schemas = schemas
        # Making one costs milliseconds where columns are nested.
        self._empties = {step: pl.DataFrame(schema=dict(schema)) for step, schema in schemas.items()}
        self._contexts = contexts
        self.source_clock: Clocks = {}
        self.repartition_clock: dict[str, Clocks] = {}
        """Closing time by repartition topic and partition, set by the owner of the marks."""
        self.output_clock: dict[str, Clocks] = {s.name: {} for s in self.steps if isinstance(s, AggregateStep)}
        self.closing: dict[str, Clocks] = {}

    @property
    def stateful(self) -> dict[str, StatefulOperator]:
        """Operators with a changelog, by step name."""
        return {
            step.name: cast(StatefulOperator, self._operators[step.name])
            for step in self.steps
            if isinstance(step, AggregateStep)
        }

    def operator(self, step: str) -> Operator:
        return self._operators[step]

    def run(self, rows: Mapping[str, pl.DataFrame], emit: Emit, *, flush: bool = False) -> None:
        """One pass. `rows` by topic: source rows without `STREAM_TIME`, repartition rows with it."""
        outputs = self._with_sources(rows)
        for step in self.steps:
            if isinstance(step, SourceStep):
                continue
            inputs = [self._input(name, outputs) for name in step.inputs]
            if isinstance(step, SinkStep | RepartitionStep):
                self.closing[step.name] = self.closing[step.inputs[0]]
                if inputs[0].height:
                    emit(step, inputs[0])
                continue
            outputs[step.name] = self._run_step(step, inputs, flush=flush)

    def _with_sources(self, rows: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """Frames by step name for everything that comes from outside."""
        sources = [step for step in self.steps if isinstance(step, SourceStep)]
        streams = {s.topic: rows[s.topic] for s in sources if not s.is_table and s.topic in rows}
        timed = self._timed(streams)
        outputs: dict[str, pl.DataFrame] = {}
        for step in sources:
            frame = timed.get(step.topic, rows.get(step.topic))
            if frame is not None and step.is_table:
                frame = frame.with_columns(pl.col(TIME).alias(STREAM_TIME))
            outputs[step.name] = self._empty(step.name) if frame is None else frame[list(self._schemas[step.name])]
            self.closing[step.name] = self.source_clock
        for topic, frame in rows.items():
            for step_name in self._repartitions(topic):
                outputs[step_name] = frame[list(self._schemas[step_name])]
        return outputs

    def _timed(self, streams: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """Stream rows of all source topics with the task's stream time."""
        if len(streams) <= 1:
            return {topic: with_stream_time(frame, self.source_clock) for topic, frame in streams.items()}
        together = pl.concat(
            frame.select(PARTITION, TIME, SEQUENCE, pl.lit(topic).alias("topic")) for topic, frame in streams.items()
        ).sort(SEQUENCE, maintain_order=True)
        timed = with_stream_time(together, self.source_clock)
        return {
            topic: frame.with_columns(timed.filter(pl.col("topic") == topic)[STREAM_TIME])
            for topic, frame in streams.items()
        }

    def _repartitions(self, topic: str) -> list[str]:
        return [s.name for s in self._plan.steps if isinstance(s, RepartitionStep) and s.topic == topic]

    def _input(self, name: str, outputs: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        if name not in self.closing:
            self.closing[name] = {}
        frame = outputs[name] if name in outputs else self._empty(name)
        step = self._plan.step(name)
        if isinstance(step, RepartitionStep):
            self.closing[name] = self.repartition_clock.setdefault(step.topic, {})
        return frame

    def _run_step(self, step: AnyStep, inputs: Sequence[pl.DataFrame], *, flush: bool) -> pl.DataFrame:
        operator, context = self._operators[step.name], self._contexts[step.name]
        context.closing = self._closing_of(step)
        if isinstance(step, AggregateStep):
            return self._run_aggregate(step, inputs, context, flush=flush)
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

    def _run_aggregate(
        self, step: AggregateStep, inputs: Sequence[pl.DataFrame], context: StepContext, *, flush: bool
    ) -> pl.DataFrame:
        operator = self.stateful[step.name]
        pieces = []
        if inputs[0].height:
            pieces.append(operator.process(inputs, context))
        pieces.append(operator.advance(context))
        if flush:
            pieces.append(operator.flush(context))
        return self._aggregated(step.name, pieces)

    def _aggregated(self, step: str, pieces: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Output rows of an aggregate, with the clock of its output."""
        self.closing[step] = self.output_clock[step]
        filled = [piece for piece in pieces if piece.height]
        if not filled:
            return self._empty(step)
        output = pl.concat([piece[list(self._schemas[step])] for piece in filled])
        numbered = output.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))
        return with_stream_time(numbered, self.output_clock[step])[list(self._schemas[step])]

    def _closing_of(self, step: AnyStep) -> Clocks:
        if not isinstance(step, MergeStep):
            return self.closing[step.inputs[0]]
        inputs = [self.closing[name] for name in step.inputs]
        partitions = {partition for clock in inputs for partition in clock}
        return {p: min(clock.get(p, BEFORE_ALL_MS) for clock in inputs) for p in partitions}

    def close_idle(self, step: AggregateStep, partitions: Sequence[int], emit: Emit) -> None:
        """Close all windows of an aggregate in idle partitions, and send what follows down the steps."""
        operator = self.stateful[step.name]
        closed = self._aggregated(step.name, [operator.close_idle(partitions, self._contexts[step.name])])
        if not closed.height:
            return
        outputs = {step.name: closed}
        behind = self.steps[self.steps.index(step) + 1 :]
        for later in behind:
            inputs = [self._input(name, outputs) for name in later.inputs]
            if isinstance(later, SourceStep) or not any(frame.height for frame in inputs):
                continue
            if isinstance(later, SinkStep | RepartitionStep):
                self.closing[later.name] = self.closing[later.inputs[0]]
                emit(later, inputs[0])
            else:
                outputs[later.name] = self._run_step(later, inputs, flush=False)

    def commit_tables(self) -> None:
        """The rows that tables took in are behind a committed position."""
        for operator in self._operators.values():
            if isinstance(operator, TableJoin):
                operator.commit()

    def rollback(self) -> None:
        """Operators go back to the last commit."""
        for operator in self._operators.values():
            if isinstance(operator, TableJoin | MapAsync):
                operator.rollback()
        for stateful in self.stateful.values():
            stateful.rollback()

    def copy_output_clocks(self) -> dict[str, Clocks]:
        return {name: dict(clock) for name, clock in self.output_clock.items()}

    def set_output_clocks(self, clocks: Mapping[str, Mapping[int, int]]) -> None:
        for name, clock in self.output_clock.items():
            clock.clear()
            clock.update(clocks.get(name, {}))

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop clocks and state of partitions that moved away."""
        for operator in self._operators.values():
            if isinstance(operator, TableJoin):
                operator.forget(partitions)
        for stateful in self.stateful.values():
            for partition in partitions:
                stateful.forget(partition)
        clocks = [self.source_clock, *self.repartition_clock.values(), *self.output_clock.values()]
        for clock in clocks:
            for partition in partitions:
                clock.pop(partition, None)

    def _empty(self, step: str) -> pl.DataFrame:
        return self._empties[step]
