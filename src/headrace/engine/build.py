"""From a plan to the objects that run it.

Owns the choice of operator for each step and the column types between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

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
from headrace.engine.operators.aggregate import make_aggregate
from headrace.engine.operators.broadcast_join import BroadcastJoin
from headrace.engine.operators.map_async import MapAsync
from headrace.engine.operators.map_rows import MapBatches, MapRows
from headrace.engine.operators.rows import Explode, Filter, Merge, Project
from headrace.engine.operators.table_join import TableJoin
from headrace.engine.outbox import Partitioner
from headrace.engine.subtopology import StepContext, SubtopologyRunner
from headrace.flow.plan import (
    AggregateStep,
    AnyStep,
    BroadcastJoinStep,
    CompiledPipeline,
    ExplodeStep,
    FilterStep,
    LateStep,
    MapAsyncStep,
    MapStep,
    MergeStep,
    ProjectStep,
    RepartitionStep,
    SinkStep,
    SourceStep,
    Subtopology,
    TableJoinStep,
)
from headrace.log.partitioner import partition_for

Schema = dict[str, pl.DataType]


def user_schema(step: AnyStep) -> Schema:
    """Types of a step's own columns."""
    return {column.name: avro_to_dtype(column.type) for column in step.columns}


def frame_schema(step: AnyStep) -> Schema:
    """Types of all columns of a step's frames."""
    return {**user_schema(step), **system_schema(step)}


def build_runner(
    compiled: CompiledPipeline,
    subtopology: Subtopology,
    *,
    bridge: AsyncBridge,
    dead_letters: DeadLetters,
    dropped: Counter[tuple[str, str]],
    now_ms: Callable[[], int],
) -> SubtopologyRunner:
    """The runner of one subtopology."""
    plan = compiled.plan
    schemas = {step.name: frame_schema(step) for step in plan.steps}
    steps = [plan.step(name) for name in subtopology.steps]
    operators: dict[str, Operator] = {}
    contexts: dict[str, StepContext] = {}
    for step in steps:
        contexts[step.name] = StepContext(step.name, dead_letters, dropped, now_ms)
        if not isinstance(step, SourceStep | SinkStep | RepartitionStep | LateStep):
            operators[step.name] = _operator(step, compiled, bridge)
    return SubtopologyRunner(plan, subtopology, operators, schemas, contexts)


def _operator(step: AnyStep, compiled: CompiledPipeline, bridge: AsyncBridge) -> Operator:
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
        case MapStep():
            kind = MapBatches if step.mode == "batches" else MapRows
            return kind(step, compiled.functions[step.name], user_schema(step), list(user_schema(first)))
        case MapAsyncStep():
            function = compiled.functions[step.name]
            return MapAsync(step, function, user_schema(step), list(user_schema(first)), bridge)
        case TableJoinStep():
            table = plan.step(step.inputs[1])
            return TableJoin(step, user_schema(table), history_ms=_history_ms(compiled, table))
        case BroadcastJoinStep():
            return BroadcastJoin(step, user_schema(plan.step(step.inputs[1])))
        case AggregateStep():
            return make_aggregate(step, user_schema(first), compiled.functions)
    raise AssertionError(f"{step.kind} runs outside operators")


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
