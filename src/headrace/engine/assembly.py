"""Putting a worker together from a plan and a live log.

Owns the wiring: readers, operators, queues, outbox and committer of one pipeline in one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.engine.async_bridge import AsyncBridge
from headrace.engine.broadcasts import Broadcasts
from headrace.engine.build import build_runner, frame_schema, frame_schemas, partitioner
from headrace.engine.changelog_writer import ChangelogWriter
from headrace.engine.committer import Committer
from headrace.engine.dead_letters import DeadLetters
from headrace.engine.input_queue import Input
from headrace.engine.local_state import LocalState
from headrace.engine.outbox import Outbox, RepartitionRoute
from headrace.engine.records_in import RecordsIn
from headrace.engine.repartition import STAYING
from headrace.engine.replay import Replays
from headrace.engine.retry import Patience
from headrace.engine.settings import WorkerSettings
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.snapshot_uploads import SnapshotUploads
from headrace.engine.state_copies import StateCopies
from headrace.engine.state_owners import check_owners
from headrace.engine.state_restore import StateRestorer
from headrace.engine.table_copies import TableCopies, table_fingerprint
from headrace.engine.tasks import Task, TaskSet
from headrace.engine.topic_identity import check_partitions
from headrace.engine.topic_reader import TopicReader
from headrace.engine.upstream import Upstream
from headrace.errors import HeadraceError
from headrace.flow.columns_read import columns_read
from headrace.flow.derived import derived_contract
from headrace.flow.internal_topics import JoinStep
from headrace.flow.plan import CompiledPipeline, Plan, Subtopology
from headrace.flow.replays import ReplayLayout
from headrace.flow.steps import AnyStep, LookupJoinStep, RepartitionStep, SinkStep, SourceStep
from headrace.flow.values import StatefulStep
from headrace.log.port import Admin, Consumer, Log, RebalanceListener, TopicDescription, TopicPartition

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
    broadcasts: Broadcasts
    upstream: Upstream
    replays: Replays
    uploads: SnapshotUploads | None
    paused: set[TopicPartition] = field(default_factory=set)
    """Held back while other inputs catch up."""

    def close(self) -> None:
        """Leave the group and free everything."""
        self.consumer.close()
        self.upstream.close()
        self.broadcasts.close()
        self.replays.close()
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
    on_loaded: Callable[[int], None],
    on_way: Callable[[int, int], None],
    listener: RebalanceListener,
) -> Assembly:
    """Connect and subscribe. Raises `TopicsMissing`, `StateWithoutStep`, `LogUnavailable`."""
    with ExitStack() as undo:
        plan = compiled.plan
        admin = log.admin()
        undo.callback(admin.close)
        topics = admin.topics(internal=True)
        partitions_of = _partition_counts(plan, topics)
        check_partitions(plan, partitions_of)
        check_owners(plan, admin, topics)
        group = f"{settings.workspace}.{plan.name}"
        member = f"{group}.{settings.instance}"
        consumer = log.consumer(group=group, client_id=member, instance=member if settings.static_member else None)
        undo.callback(consumer.close)
        bridge = AsyncBridge(plan.name)
        undo.callback(bridge.close)
        dead_letters = DeadLetters(
            topic=plan.dead_letter_topic, pipeline=plan.name, log=log, replay_topic=plan.replay_topic
        )
        read = columns_read(plan)
        readers = {
            topic: TopicReader(contracts[topic], registry, columns=read.get(topic)) for topic in plan.source_topics()
        }
        schemas = frame_schemas(plan, contracts)
        state = _state(plan, contracts, settings, consumer, admin, topics, undo)
        restorer = StateRestorer(
            log,
            consumer,
            readers,
            state.writer,
            state.copies,
            state.tables,
            on_progress=on_restore,
            on_loaded=on_loaded,
            on_way=on_way,
            retrying=patience.call,
        )

        def task(subtopology: Subtopology) -> Task:
            runner = build_runner(
                compiled,
                subtopology,
                schemas=schemas,
                bridge=bridge,
                dead_letters=dead_letters,
                dropped=dropped,
                now_ms=now_ms,
            )
            return Task(runner, _inputs(plan, subtopology), max_wait_ms=_max_wait_ms(plan, subtopology))

        tasks = TaskSet(
            [task(each) for each in plan.subtopologies],
            consumer,
            restorer,
            plan=plan,
            topics=lambda: admin.topics(internal=True),
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
            changelogs=state.writer,
            tables=state.tables,
        )
        undo.callback(committer.close)
        # Now, not with the first record: it ends what this worker left open when it died, and restore waits for that.
        committer.start()
        records_in = RecordsIn(readers, _keyed_tables(plan, partitions_of), _moved_columns(plan), tasks, dead_letters)
        consumer.subscribe(sorted({topic for each in plan.subtopologies for topic in each.reads}), listener)
        broadcasts = _broadcasts(plan, log, partitions_of, readers, dropped)
        replays = Replays(
            log,
            plan,
            ReplayLayout.of(plan, partitions_of),
            admin=admin,
            group=consumer,
            tasks=tasks,
            readers=readers,
            dead_letters=dead_letters,
        )
        replays.look(topics)
        undo.pop_all()
        return Assembly(
            consumer,
            admin,
            tasks,
            records_in,
            outbox,
            committer,
            dead_letters,
            bridge,
            broadcasts,
            Upstream(log, group),
            replays,
            state.uploads,
        )


@dataclass(frozen=True, slots=True)
class _State:
    """What knows of changelogs and of copies of state."""

    writer: ChangelogWriter
    copies: StateCopies
    tables: TableCopies
    uploads: SnapshotUploads | None


def _state(
    plan: Plan,
    contracts: Mapping[str, Contract],
    settings: WorkerSettings,
    consumer: Consumer,
    admin: Admin,
    topics: Mapping[str, TopicDescription],
    undo: ExitStack,
) -> _State:
    uploads = None
    if settings.snapshots is not None:
        uploads = SnapshotUploads(settings.snapshots, interval_s=settings.snapshot_interval_s)
        undo.callback(uploads.close)
    local = LocalState(settings.state_folder) if settings.state_folder is not None else None
    fingerprints = {topic: table_fingerprint(contracts[topic]) for topic in plan.source_topics()}
    return _State(
        ChangelogWriter(consumer, admin, uploads),
        StateCopies(plan.name, settings.environment, local, settings.snapshots, lambda: topics),
        TableCopies(plan.name, settings.environment, local, lambda: topics, fingerprints),
        uploads,
    )


def _broadcasts(
    plan: Plan,
    log: Log,
    partitions_of: Mapping[str, int],
    readers: Mapping[str, TopicReader],
    dropped: Counter[tuple[str, str]],
) -> Broadcasts:
    topics = {topic for each in plan.subtopologies for topic in each.broadcasts}
    return Broadcasts(log, {topic: partitions_of[topic] for topic in sorted(topics)}, readers, dropped)


def _partition_counts(plan: Plan, topics: Mapping[str, TopicDescription]) -> dict[str, int]:
    needed = {topic for each in plan.subtopologies for topic in (*each.reads, *each.broadcasts, *each.writes)}
    needed |= {plan.dead_letter_topic, *(step.changelog for step in plan.steps if isinstance(step, StatefulStep))}
    missing = sorted(needed - set(topics))
    if missing:
        raise TopicsMissing(f"{plan.name}: no topic {', '.join(missing)}", cure="run `headrace apply`")
    return {topic: topics[topic].partitions for topic in needed}


def _inputs(plan: Plan, subtopology: Subtopology) -> list[Input]:
    steps = [plan.step(name) for name in subtopology.steps]
    sources = {step.topic: step for step in steps if isinstance(step, SourceStep) and not step.is_broadcast}
    moved = {step.topic: step for step in plan.steps if isinstance(step, RepartitionStep)}
    inputs = []
    for topic in subtopology.reads:
        step = sources.get(topic) or moved[topic]
        is_eager = isinstance(step, SourceStep) and step.is_table and step.time is None and not step.record_time
        inputs.append(Input(topic, step.is_table, is_eager))
    return inputs


def _max_wait_ms(plan: Plan, subtopology: Subtopology) -> int:
    waits = (getattr(plan.step(name), "max_wait_ms", None) for name in subtopology.steps)
    return max((wait_ms for wait_ms in waits if wait_ms is not None), default=DEFAULT_MAX_WAIT_MS)


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
    """Topics whose rows a join looks for where their keys say that they are."""
    joins = [step for step in plan.steps if isinstance(step, JoinStep)]
    topics = {topic for join in joins for name in join.inputs for topic in _sources_of(plan, plan.step(name))}
    return {topic: partitions_of[topic] for topic in topics}


def _sources_of(plan: Plan, step: AnyStep) -> set[str]:
    """Keyed source topics from which a step's rows come without being moved."""
    if isinstance(step, SourceStep):
        return {step.topic} if step.key and not step.is_broadcast else set()
    if isinstance(step, RepartitionStep):
        return set()
    inputs = step.inputs[:1] if isinstance(step, LookupJoinStep) else step.inputs
    return {topic for name in inputs for topic in _sources_of(plan, plan.step(name))}


def _moved_columns(plan: Plan) -> dict[str, list[str]]:
    """The columns that travel in each repartition topic."""
    return {
        step.topic: [name for name in frame_schema(step) if name not in STAYING]
        for step in plan.steps
        if isinstance(step, RepartitionStep)
    }


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
            routes[step.name] = RepartitionRoute(
                step.topic,
                partitions_of[step.topic],
                partitioner(step, partitions_of[step.topic], like, registry),
                _moved_columns(plan)[step.topic],
            )
    return Outbox(sinks, routes, dead_letters)
