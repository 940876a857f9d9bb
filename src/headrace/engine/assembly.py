"""Putting a worker together from a plan and a live log.

Owns the wiring: readers, operators, queues, outbox and committer of one pipeline in one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.engine.async_bridge import AsyncBridge
from headrace.engine.build import build_runner, partitioner, user_schema
from headrace.engine.committer import Committer
from headrace.engine.dead_letters import DeadLetters
from headrace.engine.input_queue import Input
from headrace.engine.operator import DELETED
from headrace.engine.outbox import Outbox, RepartitionRoute
from headrace.engine.records_in import RecordsIn
from headrace.engine.repartition import CARRIED
from headrace.engine.retry import Patience
from headrace.engine.settings import WorkerSettings
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.state_restore import StateRestorer
from headrace.engine.tasks import Task, TaskSet
from headrace.engine.topic_reader import TopicReader
from headrace.errors import HeadraceError
from headrace.flow.derived import derived_contract
from headrace.flow.plan import CompiledPipeline, Plan, RepartitionStep, SinkStep, SourceStep, Subtopology, TableJoinStep
from headrace.log.port import Admin, Consumer, Log, RebalanceListener, TopicPartition

DEFAULT_MAX_WAIT_MS = 60_000
"""How long a row waits for another input that is silent but not at its end, where no join says otherwise."""


class TopicsMissing(HeadraceError):
    """The pipeline reads or writes topics that are not there."""

    code = "engine.topics_missing"


@dataclass(slots=True)
class Assembly:
    """The parts of a running worker."""

    consumer: Consumer
    admin: Admin
    tasks: TaskSet
    records_in: RecordsIn
    outbox: Outbox
    committer: Committer
    dead_letters: DeadLetters
    bridge: AsyncBridge
    paused: set[TopicPartition] = field(default_factory=set)
    """Held back while other inputs catch up."""
    idle: set[TopicPartition] = field(default_factory=set)
    """Without input for a while and at their end."""
    idle_asked_at: float = 0.0

    def close(self) -> None:
        """Leave the group and free everything."""
        self.consumer.close()
        self.committer.close()
        self.admin.close()
        self.bridge.close()


def assemble(
    compiled: CompiledPipeline,
    *,
    contracts: Mapping[str, Contract],
    registry: Registry,
    log: Log,
    settings: WorkerSettings,
    dropped: Counter[tuple[str, str]],
    now_ms: Callable[[], int],
    patience: Patience,
    on_restore: Callable[[str, int], None],
    listener: RebalanceListener,
) -> Assembly:
    """Connect and subscribe. Raises `TopicsMissing`, `LogUnavailable`."""
    plan = compiled.plan
    admin = log.admin()
    partitions_of = _partition_counts(plan, admin)
    group = f"{settings.workspace}.{plan.name}"
    consumer = log.consumer(group=group, client_id=f"{group}.{settings.instance}")
    bridge = AsyncBridge(plan.name)
    dead_letters = DeadLetters(topic=plan.dead_letter_topic, pipeline=plan.name, log=log)
    readers = {topic: TopicReader(contracts[topic], registry) for topic in plan.source_topics()}
    restorer = StateRestorer(log, readers, on_progress=on_restore, retrying=patience.call)

    def task(subtopology: Subtopology) -> Task:
        runner = build_runner(
            compiled, subtopology, bridge=bridge, dead_letters=dead_letters, dropped=dropped, now_ms=now_ms
        )
        return Task(runner, _inputs(plan, subtopology), max_wait_ms=_max_wait_ms(plan, subtopology))

    tasks = TaskSet(
        [task(each) for each in plan.subtopologies],
        consumer,
        restorer,
        partitions_of=partitions_of,
        origins_of=_origins(plan, partitions_of),
    )
    outbox = _outbox(compiled, contracts, registry, partitions_of, dead_letters)
    committer = Committer(
        log=log,
        consumer=consumer,
        admin=admin,
        outbox=outbox,
        dead_letters=dead_letters,
        delivery=plan.delivery,
        transactional_id=f"{group}.{settings.instance}",
        delta_rows=restorer.delta_rows,
    )
    records_in = RecordsIn(readers, _keyed_tables(plan, partitions_of), tasks, dead_letters)
    consumer.subscribe(sorted({topic for each in plan.subtopologies for topic in each.reads}), listener)
    return Assembly(consumer, admin, tasks, records_in, outbox, committer, dead_letters, bridge)


def _partition_counts(plan: Plan, admin: Admin) -> dict[str, int]:
    topics = admin.topics(internal=True)
    needed = {topic for each in plan.subtopologies for topic in (*each.reads, *each.writes)} | {plan.dead_letter_topic}
    missing = sorted(needed - set(topics))
    if missing:
        raise TopicsMissing(f"{plan.name}: no topic {', '.join(missing)}", cure="run `headrace apply`")
    return {topic: topics[topic].partitions for topic in needed}


def _inputs(plan: Plan, subtopology: Subtopology) -> list[Input]:
    sources = {step.topic: step for step in map(plan.step, subtopology.steps) if isinstance(step, SourceStep)}
    inputs = []
    for topic in subtopology.reads:
        step = sources.get(topic)
        is_table = step is not None and step.is_table
        inputs.append(Input(topic, is_table, is_table and step is not None and step.time is None))
    return inputs


def _max_wait_ms(plan: Plan, subtopology: Subtopology) -> int:
    steps = map(plan.step, subtopology.steps)
    return max((step.max_wait_ms for step in steps if isinstance(step, TableJoinStep)), default=DEFAULT_MAX_WAIT_MS)


def _origins(plan: Plan, partitions_of: Mapping[str, int]) -> dict[str, int]:
    """How many tasks write to each repartition topic."""
    origins: dict[str, int] = {}
    for subtopology in plan.subtopologies:
        tasks = max(partitions_of[topic] for topic in subtopology.reads)
        for step in map(plan.step, subtopology.steps):
            if isinstance(step, RepartitionStep):
                origins[step.topic] = tasks
    return origins


def _keyed_tables(plan: Plan, partitions_of: Mapping[str, int]) -> dict[str, int]:
    """Table topics that a join looks rows up in by key."""
    steps = {step.name: step for step in plan.steps}
    tables: dict[str, int] = {}
    for step in plan.steps:
        if isinstance(step, TableJoinStep):
            source = steps[step.inputs[1]]
            while not isinstance(source, SourceStep):
                source = steps[source.inputs[0]]
            tables[source.topic] = partitions_of[source.topic]
    return tables


def _outbox(
    compiled: CompiledPipeline,
    contracts: Mapping[str, Contract],
    registry: Registry,
    partitions_of: Mapping[str, int],
    dead_letters: DeadLetters,
) -> Outbox:
    plan = compiled.plan
    outputs = {output.topic: derived_contract(plan, output) for output in plan.outputs}
    sinks = {step.name: SinkWriter(outputs[step.topic], registry) for step in plan.steps if isinstance(step, SinkStep)}
    routes = {}
    for step in plan.steps:
        if isinstance(step, RepartitionStep):
            like = contracts[step.like] if step.like is not None else None
            carried = [*CARRIED, DELETED] if step.is_table else list(CARRIED)
            routes[step.name] = RepartitionRoute(
                step.topic,
                partitions_of[step.topic],
                partitioner(step, partitions_of[step.topic], like, registry),
                [*user_schema(step), *carried],
            )
    return Outbox(sinks, routes, dead_letters)
