"""The ingress and egress stages of a plan.

Owns the questions that are put to sources and connectors before anything runs.

- Looking changes nothing: neither a source database nor a target.
- Whatever is wrong with one of them is a problem of the plan with its file and line.
- The rooms of ingress and egress are loaded for those that are there: most workers, and every start, look at a plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headrace.errors import HeadraceError
from headrace.workspace.changes import Change, Json, Problem, SetUpIngress
from headrace.workspace.environment import Environment
from headrace.workspace.errors import UnknownName, did_you_mean
from headrace.workspace.load import Workspace

if TYPE_CHECKING:
    from headrace.egress.config import EgressConfig
    from headrace.ingress.cdc.config import CdcConfig
    from headrace.ingress.cdc.mysql.cdc import MysqlCdc
    from headrace.ingress.cdc.postgres.cdc import PostgresCdc
    from headrace.ingress.cdc.worker import CdcWorker
    from headrace.ingress.gateway.config import GatewayConfig
    from headrace.ingress.gateway.worker import Gateway


@dataclass(slots=True)
class IngressStage:
    """What sources need."""

    changes: list[Change] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class EgressStage:
    """Which egress is ready."""

    checked: list[Json] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plan_ingress(workspace: Workspace, environment: Environment) -> IngressStage:
    """Ask each source what it lacks."""
    stage = IngressStage()
    if not workspace.ingress:
        return stage
    from headrace.ingress.gateway.config import GatewayConfig

    for config in workspace.ingress:
        try:
            if isinstance(config, GatewayConfig):
                open_gateway(config, workspace, environment).check()
                continue
            ingress = open_ingress(config, workspace, environment)
            missing = ingress.missing()
        except HeadraceError as error:
            stage.problems.append(Problem.of(error))
            continue
        if missing:
            stage.changes.append(SetUpIngress(config.name, ingress.setup_summary(missing)))
    return stage


def set_up_ingress(name: str, workspace: Workspace, environment: Environment) -> None:
    """Give the source what it lacks."""
    from headrace.ingress.gateway.config import GatewayConfig

    for config in workspace.ingress:
        if config.name == name and not isinstance(config, GatewayConfig):
            open_ingress(config, workspace, environment).setup()
            return
    raise UnknownName(f"workspace {workspace.name!r} has no ingress {name!r}")


def open_gateway(config: GatewayConfig, workspace: Workspace, environment: Environment, instance: str = "0") -> Gateway:
    """The gateway of a configuration. Opens nothing."""
    from headrace.ingress.gateway.worker import Gateway

    return Gateway(
        config,
        environment,
        workspace.contracts,
        workspace=environment.workspace,
        root=workspace.root,
        instance=instance,
    )


def open_ingress(config: CdcConfig, workspace: Workspace, environment: Environment) -> CdcWorker[Any]:
    """The ingress of a configuration. Raises what does not fit its contracts."""
    from headrace.ingress.cdc.config import MysqlCdcConfig, PostgresCdcConfig, SqliteCdcConfig
    from headrace.ingress.cdc.sqlite import SqliteCdc

    given = environment.log, environment.registry, workspace.contracts
    if isinstance(config, PostgresCdcConfig):
        return _postgres_cdc()(config, *given, workspace=environment.workspace)
    if isinstance(config, MysqlCdcConfig):
        return _mysql_cdc()(config, *given, workspace=environment.workspace)
    assert isinstance(config, SqliteCdcConfig)
    return SqliteCdc(config, *given, workspace=environment.workspace)


def _postgres_cdc() -> type[PostgresCdc]:
    """Looked up when it is needed: its driver is an extra. Raises `IngressInvalid`."""
    from headrace.ingress.violations import IngressInvalid

    try:
        from headrace.ingress.cdc.postgres.cdc import PostgresCdc
    except ImportError as error:
        raise IngressInvalid(
            f"PostgreSQL's driver is not there: {error}", cure="pip install 'headrace[postgres]'"
        ) from error
    return PostgresCdc


def _mysql_cdc() -> type[MysqlCdc]:
    """As that of PostgreSQL."""
    from headrace.ingress.violations import IngressInvalid

    try:
        from headrace.ingress.cdc.mysql.cdc import MysqlCdc
    except ImportError as error:
        raise IngressInvalid(f"MySQL's driver is not there: {error}", cure="pip install 'headrace[mysql]'") from error
    return MysqlCdc


def plan_egress(workspace: Workspace) -> EgressStage:
    """Check that each egress has its topic's contract, its connector and options that this takes."""
    stage = EgressStage()
    for config in workspace.egress:
        try:
            stage.checked.append(_checked_egress(config, workspace))
        except HeadraceError as error:
            stage.problems.append(Problem.of(error))
    return stage


def _checked_egress(config: EgressConfig, workspace: Workspace) -> Json:
    from headrace.egress.config import connector_config
    from headrace.egress.errors import EgressInvalid
    from headrace.egress.sdk import load_connector
    from headrace.egress.view import View

    if config.topic not in workspace.topics:
        cure = did_you_mean(config.topic, workspace.topics)
        raise EgressInvalid(f"topic {config.topic!r} has no contract", where=config.place("topic"), cure=cure)
    connector = load_connector(config.connector, where=config.place("connector"))
    connector_config(config, connector)
    View(config, workspace.topics[config.topic])
    return {
        "name": config.name,
        "topic": config.topic,
        "connector": config.connector,
        "mode": config.mode.value,
        "delivery": connector.capabilities.delivery,
        "tasks": config.tasks,
    }
