"""What `headrace apply` would change in one environment.

Owns `WorkspacePlan` and the stages that make it:

1. Topics: published, derived, internal, dead letters.
2. Schemas: compatibility modes, then versions, each with a verdict.
3. Ingress: what a source needs before it can be read.
4. Egress: that its topic is known, its connector installed, its options valid. Nothing to change, only problems.

- A plan is frozen, and making one only reads.
- `apply` walks the same changes in the same order.
- A problem in any stage keeps the whole plan from being applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from headrace.contracts.contract import Contract
from headrace.contracts.contract_errors import ContractInvalid
from headrace.errors import Fault, HeadraceError, Where
from headrace.flow.internal_topics import DEAD_LETTER_PARTITIONS, internal_topics
from headrace.flow.plan import CompiledPipeline, Plan
from headrace.log.port import TopicDescription
from headrace.workspace.changes import (
    Change,
    Json,
    Problem,
    SchemaVerdict,
    change_json,
)
from headrace.workspace.environment import Environment
from headrace.workspace.load import Workspace
from headrace.workspace.plan_connectors import plan_egress, plan_ingress
from headrace.workspace.plan_schemas import plan_schemas
from headrace.workspace.plan_topics import TopicStage, WantedTopic, plan_topics
from headrace.workspace.topics import DEAD_LETTER_CONFIG, contract_topic, topic_spec

PLAN_FORMAT = 1
"""Of the JSON; raised when a field changes its meaning or goes."""

EXIT_UNCHANGED, EXIT_PROBLEMS, EXIT_CHANGES = 0, 1, 2


@dataclass(frozen=True, slots=True)
class WorkspacePlan:
    """Everything that would change, in the order in which it would."""

    workspace: str
    environment: str
    log: str
    topics: tuple[Change, ...] = ()
    schemas: tuple[Change, ...] = ()
    ingress: tuple[Change, ...] = ()
    verdicts: tuple[SchemaVerdict, ...] = ()
    problems: tuple[Problem, ...] = ()
    pipelines: tuple[Plan, ...] = ()
    egress: tuple[Json, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        return (*self.topics, *self.schemas, *self.ingress)

    @property
    def exit_code(self) -> int:
        """0: nothing to change, 1: problems, 2: changes."""
        if self.problems:
            return EXIT_PROBLEMS
        return EXIT_CHANGES if self.changes else EXIT_UNCHANGED

    def to_json(self) -> Json:
        return {
            "format": PLAN_FORMAT,
            "workspace": self.workspace,
            "environment": self.environment,
            "log": self.log,
            "exit_code": self.exit_code,
            "changes": [change_json(change) for change in self.changes],
            "schemas": [verdict.as_json() for verdict in self.verdicts],
            "pipelines": [_pipeline_json(plan) for plan in self.pipelines],
            "egress": list(self.egress),
            "problems": [problem.as_json() for problem in self.problems],
        }


def make_plan(workspace: Workspace, environment: Environment) -> WorkspacePlan:
    """Compare the workspace with the environment. Raises only when the log or registry cannot be asked."""
    topics = _topic_stage(workspace, environment)
    schemas = plan_schemas(workspace.topics.values(), environment.registry)
    ingress = plan_ingress(workspace, environment)
    egress = plan_egress(workspace)
    return WorkspacePlan(
        workspace=workspace.name,
        environment=environment.name,
        log=environment.log.name,
        topics=tuple(topics.changes),
        schemas=tuple(schemas.changes),
        ingress=tuple(ingress.changes),
        verdicts=tuple(schemas.verdicts),
        problems=(*topics.problems, *schemas.problems, *ingress.problems, *egress.problems),
        pipelines=tuple(pipeline.plan for pipeline in workspace.pipelines),
        egress=tuple(egress.checked),
    )


def broken_plan(workspace: str, environment: str, error: HeadraceError) -> WorkspacePlan:
    """The plan of a workspace that cannot be read: what is wrong with it, and nothing else."""
    errors = error.problems if isinstance(error, ContractInvalid) else (error,)
    return WorkspacePlan(workspace, environment, log="", problems=tuple(Problem.of(each) for each in errors))


def _topic_stage(workspace: Workspace, environment: Environment) -> TopicStage:
    admin = environment.log.admin()
    try:
        present = admin.topics()
    finally:
        admin.close()
    wanted, problems = wanted_topics(workspace, environment, present)
    stage = plan_topics(wanted, present)
    stage.problems.extend(problems)
    return stage


def wanted_topics(
    workspace: Workspace, environment: Environment, present: Mapping[str, TopicDescription]
) -> tuple[list[WantedTopic], list[Problem]]:
    """Every topic that the workspace needs, and why some cannot be told."""
    wanted = [_of_contract(contract, environment, "published") for contract in workspace.contracts.values()]
    problems: list[Problem] = []
    counts = {topic.spec.name: topic.spec.partitions for topic in wanted}

    def partitions_of(topic: str) -> int:
        # What is there counts before what would be made.
        return present[topic].partitions if topic in present else counts.get(topic, environment.config.partitions)

    for pipeline in workspace.pipelines:
        for output in pipeline.plan.outputs:
            if output.topic not in workspace.contracts:
                purpose = f"derived by {pipeline.plan.name}"
                topic = _of_contract(workspace.derived[output.topic], environment, purpose)
                wanted.append(topic)
                counts[output.topic] = topic.spec.partitions
        try:
            wanted.extend(_of_pipeline(pipeline, environment, partitions_of))
        except HeadraceError as error:
            if error.fault is not Fault.STOP:
                raise
            problems.append(Problem.of(error))
    wanted.extend(
        _dead_letters(config.dead_letter_topic, config.name, config.where, environment)
        for config in workspace.dead_lettering
    )
    return wanted, problems


def _of_contract(contract: Contract, environment: Environment, purpose: str) -> WantedTopic:
    return WantedTopic(
        spec=contract_topic(contract, environment.config),
        purpose=purpose,
        keyed=bool(contract.key),
        fixed_partitions=contract.partitions is not None,
        where=contract.where,
    )


def _of_pipeline(
    pipeline: CompiledPipeline, environment: Environment, partitions_of: Callable[[str], int]
) -> Iterator[WantedTopic]:
    plan = pipeline.plan
    where = Where(plan.place.file, plan.place.line)
    for internal in internal_topics(plan, partitions_of):
        spec = topic_spec(internal.name, internal.partitions, internal.config, environment.config)
        if internal.name == plan.dead_letter_topic:
            yield WantedTopic(spec, f"dead letters of {plan.name}", keyed=False, fixed_partitions=False, where=where)
        else:
            yield WantedTopic(
                spec,
                f"internal to {plan.name}",
                keyed=True,
                fixed_partitions=True,
                where=where,
                cure=f"run `headrace reset {plan.name}`, which makes it anew and computes everything again",
            )


def _dead_letters(topic: str, owner: str, where: Where | None, environment: Environment) -> WantedTopic:
    spec = topic_spec(topic, DEAD_LETTER_PARTITIONS, DEAD_LETTER_CONFIG, environment.config)
    return WantedTopic(spec, f"dead letters of {owner}", keyed=False, fixed_partitions=False, where=where)


def _pipeline_json(plan: Plan) -> Json:
    return {
        "name": plan.name,
        "file": plan.place.file,
        "line": plan.place.line,
        "reads": list(plan.source_topics()),
        "writes": [output.topic for output in plan.outputs],
        "dead_letters": plan.dead_letter_topic,
        "delivery": plan.delivery.value,
    }
