"""From a plan to the objects that run it.

Owns the choice of operator for each step and the column types between them.

- An operator's module is loaded with the first step that needs it: the others, most of the engine, would hold up the
  start of every worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.contracts.contract import Contract
from headrace.contracts.key import open_key_codec
from headrace.contracts.polars_types import avro_to_dtype, from_frame
from headrace.contracts.registry import Registry
from headrace.engine import repartition
from headrace.engine.async_bridge import AsyncBridge
from headrace.engine.dead_letters import DeadLetters
from headrace.engine.operator import PARTITION, Operator, system_schema
from headrace.engine.operators.rows import Explode, Filter, Merge, Project
from headrace.engine.operators.turns import Origin
from headrace.engine.outbox import Partitioner
from headrace.engine.subtopology import StepContext, SubtopologyRunner
from headrace.engine.topic_reader import columns_to_decode
from headrace.flow.columns_read import carried, columns_read
from headrace.flow.plan import CompiledPipeline, Plan, Subtopology
from headrace.flow.steps import (
    AggregateStep,
    AnyStep,
    AsTableStep,
    BroadcastJoinStep,
    BufferedTableJoinStep,
    ChangesStep,
    DedupeStep,
    DropNullsStep,
    ExpireStep,
    ExplodeStep,
    FilterStep,
    ForeignMatchStep,
    ForeignResolveStep,
    ForeignSubscribeStep,
    LateStep,
    MapAsyncStep,
    MapStep,
    MergeStep,
    ProcessStep,
    ProjectStep,
    RepartitionStep,
    RetractStep,
    SinkStep,
    SourceStep,
    StreamJoinStep,
    SuppressStep,
    TableJoinStep,
    TableTableJoinStep,
    TopNStep,
    foreign_columns,
)
from headrace.flow.values import StatefulStep
from headrace.log.partitioner import partition_for

Schema = dict[str, pl.DataType]


def user_schema(step: AnyStep) -> Schema:
    """Types of a step's own columns."""
    return {column.name: avro_to_dtype(column.type) for column in step.columns}


def frame_schema(step: AnyStep) -> Schema:
    """Types of all columns of a step's frames."""
    return {**user_schema(step), **system_schema(step)}


def frame_schemas(plan: Plan, contracts: Mapping[str, Contract]) -> dict[str, Schema]:
    """Types of all columns of each step's frames, without those that nobody reads and that are not decoded."""
    schemas = {step.name: frame_schema(step) for step in plan.steps}
    read = columns_read(plan)
    for name, rows in carried(plan).items():
        if rows.topic in read:
            decoded = columns_to_decode(contracts[rows.topic], read[rows.topic])
            kept = {*decoded, *rows.added, *system_schema(plan.step(name))}
            schemas[name] = {column: dtype for column, dtype in schemas[name].items() if column in kept}
    return schemas


def build_runner(
    compiled: CompiledPipeline,
    subtopology: Subtopology,
    *,
    schemas: Mapping[str, Schema],
    bridge: AsyncBridge,
    dead_letters: DeadLetters,
    dropped: Counter[tuple[str, str]],
    now_ms: Callable[[], int],
) -> SubtopologyRunner:
    """The runner of one subtopology. `schemas`: `frame_schemas` of the plan."""
    plan = compiled.plan
    steps = [plan.step(name) for name in subtopology.steps]
    operators: dict[str, Operator] = {}
    contexts: dict[str, StepContext] = {}
    for step in steps:
        contexts[step.name] = StepContext(step.name, dead_letters, dropped, now_ms)
        if not isinstance(step, SourceStep | SinkStep | RepartitionStep | LateStep):
            columns = [name for name in schemas[step.name] if name not in system_schema(step)]
            operators[step.name] = _operator(step, compiled, bridge, columns)
    return SubtopologyRunner(plan, subtopology, operators, schemas, contexts)


def _operator(step: AnyStep, compiled: CompiledPipeline, bridge: AsyncBridge, columns: Sequence[str]) -> Operator:
    """`columns`: of the step's frames, without system columns."""
    plan = compiled.plan
    first = plan.step(step.inputs[0])
    match step:
        case FilterStep():
            return Filter(step)
        case ProjectStep():
            return Project(step)
        case ExplodeStep():
            return Explode(step)
        case MergeStep():
            return Merge()
        case DropNullsStep():
            from headrace.engine.operators.drop_nulls import DropNulls

            return DropNulls(step)
        case MapStep():
            from headrace.engine.operators.map_rows import MapBatches, MapRows

            kind = MapBatches if step.mode == "batches" else MapRows
            return kind(step, compiled.functions[step.name], list(user_schema(first)))
        case MapAsyncStep():
            from headrace.engine.operators.map_async import MapAsync

            function = compiled.functions[step.name]
            return MapAsync(step, function, list(user_schema(first)), bridge)
        case TableJoinStep():
            from headrace.engine.operators.table_join import TableJoin

            table = plan.step(step.inputs[1])
            return TableJoin(step, user_schema(table), history_ms=_history_ms(compiled, table), columns=columns)
        case BufferedTableJoinStep():
            from headrace.engine.operators.buffered_table_join import BufferedTableJoin

            table = plan.step(step.inputs[1])
            return BufferedTableJoin(
                step, user_schema(first), user_schema(table), history_ms=_history_ms(compiled, table)
            )
        case StreamJoinStep():
            from headrace.engine.operators.stream_join import StreamJoin

            return StreamJoin(step, user_schema(first), user_schema(plan.step(step.inputs[1])))
        case BroadcastJoinStep():
            from headrace.engine.operators.broadcast_join import BroadcastJoin

            return BroadcastJoin(step, user_schema(plan.step(step.inputs[1])), columns=columns)
        case ProcessStep():
            from headrace.engine.operators.process import Process

            return Process(step, compiled.functions[step.name], user_schema(first))
        case DedupeStep():
            from headrace.engine.operators.dedupe import Dedupe

            return Dedupe(step, user_schema(first))
        case TopNStep():
            from headrace.engine.operators.top_n import TopN

            return TopN(step, user_schema(first))
        case AggregateStep():
            from headrace.engine.operators.aggregate import make_aggregate

            return make_aggregate(step, user_schema(first), compiled.functions, retracts=first.has_retractions)
        case TableTableJoinStep():
            from headrace.engine.operators.table_table_join import TableTableJoin

            second = plan.step(step.inputs[1])
            origins = (_origin(plan, first), _origin(plan, second))
            every = _feeds_a_join(plan, step)
            return TableTableJoin(step, user_schema(first), user_schema(second), origins, tells_every_change=every)
        case ForeignSubscribeStep():
            from headrace.engine.operators.foreign_subscribe import ForeignSubscribe

            foreign = [user_schema(step)[name] for name in foreign_columns(len(step.foreign))]
            return ForeignSubscribe(step, user_schema(first), foreign)
        case ForeignMatchStep():
            from headrace.engine.operators.foreign_match import ForeignMatch

            second = plan.step(step.inputs[1])
            is_read = _origin(plan, second) is Origin.READ
            return ForeignMatch(step, user_schema(first), user_schema(second), right_at_flush=not is_read)
        case ForeignResolveStep():
            from headrace.engine.operators.foreign_resolve import ForeignResolve

            return ForeignResolve(step, user_schema(first))
        case RetractStep():
            from headrace.engine.operators.retract import Retract

            return Retract(step, user_schema(first))
        case ChangesStep():
            from headrace.engine.operators.duality import Changes

            return Changes(step)
        case AsTableStep():
            from headrace.engine.operators.duality import AsTable

            return AsTable(step)
        case SuppressStep():
            from headrace.engine.operators.suppress import Suppress

            return Suppress(step, user_schema(first))
        case ExpireStep():
            from headrace.engine.operators.expire import Expire

            return Expire(step, user_schema(first))
    raise AssertionError(f"{step.kind} runs outside operators")


def _origin(plan: Plan, step: AnyStep) -> Origin:
    """Where a table's rows come from in the subtopology that reads them."""
    step = _maker(plan, step)
    if isinstance(step, TableTableJoinStep):
        return Origin.JOINED
    return Origin.MADE if isinstance(step, StatefulStep) else Origin.READ


def _maker(plan: Plan, step: AnyStep) -> AnyStep:
    """The step that makes a table's rows, in the subtopology that reads them."""
    while not isinstance(step, SourceStep | RepartitionStep | StatefulStep):
        step = plan.step(step.inputs[0])
    return step


def _feeds_a_join(plan: Plan, step: AnyStep) -> bool:
    """Whether a join of two tables reads this one as it is made."""
    readers = (each for each in plan.steps if isinstance(each, TableTableJoinStep))
    return any(_maker(plan, plan.step(name)) is step for each in readers for name in each.inputs)


def _history_ms(compiled: CompiledPipeline, step: AnyStep) -> int | None:
    while not isinstance(step, SourceStep):
        step = compiled.plan.step(step.inputs[0])
    return step.history_ms


def partitioner(step: RepartitionStep, partitions: int, like: Contract | None, registry: Registry) -> Partitioner:
    """How a repartition step chooses partitions: as `like`'s producers do, or by headrace's own hash."""
    if like is None:
        return lambda frame: repartition.own_partitions(frame, step.key, partitions)
    codec = open_key_codec(like, registry)
    dtypes: Mapping[str, pl.DataType] = {
        field.name: avro_to_dtype(field.type) for field in like.schema.fields if field.name in like.key
    }

    def by_key_bytes(frame: pl.DataFrame) -> npt.NDArray[np.int32]:
        keys = frame.select(
            pl.col(mine).cast(dtypes[theirs]).alias(theirs) for mine, theirs in zip(step.key, like.key, strict=True)
        )
        encoded = codec.encode(from_frame(keys))
        chosen = partition_for(encoded.values, partitions)
        # A null key finds no partner anywhere: it stays in its partition's number.
        return np.where(chosen < 0, frame[PARTITION].to_numpy() % partitions, chosen).astype(np.int32)

    return by_key_bytes
