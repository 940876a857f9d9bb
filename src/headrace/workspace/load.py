"""A workspace as values: its contracts, compiled pipelines, ingress and egress.

Owns the reading of all folders of a workspace. Opens no connection and changes nothing.

- Either everything is whole and fits together, or the first error of the first broken file is raised.
- A pipeline may read what another one writes: files are compiled in the order that needs, whatever their names.
- Every topic is said once: by one contract file or by one pipeline. A derived topic may have a contract file that its
  pipeline must fit; that file then holds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from headrace.contracts.contract import Contract
from headrace.contracts.load import load_contracts
from headrace.errors import Where
from headrace.flow.compile import compile_pipelines
from headrace.flow.derived import derived_contract
from headrace.flow.errors import UnknownTopic
from headrace.flow.load import read_pipelines
from headrace.flow.plan import CompiledPipeline
from headrace.workspace.config import WorkspaceFile, read_config
from headrace.workspace.environment import CONTRACTS_FOLDER
from headrace.workspace.errors import NameTwice, PipelineCycle, UnknownName, did_you_mean

PIPELINES_FOLDER = "pipelines"
INGRESS_FOLDER = "ingress"
EGRESS_FOLDER = "egress"

if TYPE_CHECKING:
    from headrace.egress.config import EgressConfig
    from headrace.ingress.cdc.config import CdcConfig
    from headrace.ingress.gateway.config import GatewayConfig

IngressConfig: TypeAlias = "CdcConfig | GatewayConfig"
"""Of any kind."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Everything that one workspace says."""

    file: WorkspaceFile
    contracts: Mapping[str, Contract]
    """Of contract files, by topic."""
    pipelines: tuple[CompiledPipeline, ...]
    """Each after those whose outputs it reads."""
    derived: Mapping[str, Contract]
    """Of topics that pipelines write, by topic."""
    ingress: tuple[IngressConfig, ...]
    egress: tuple[EgressConfig, ...]

    @property
    def name(self) -> str:
        return self.file.config.name

    @property
    def root(self) -> Path:
        return self.file.root

    @property
    def topics(self) -> Mapping[str, Contract]:
        """Every contract, published and derived, by topic."""
        return {**self.derived, **self.contracts}

    @property
    def connections(self) -> tuple[IngressConfig | EgressConfig, ...]:
        """What moves data in and out."""
        return (*self.ingress, *self.egress)

    @property
    def dead_lettering(self) -> tuple[CdcConfig | EgressConfig, ...]:
        """Those that have a dead-letter topic: a gateway tells its client instead."""
        if not self.ingress:
            return self.egress
        from headrace.ingress.gateway.config import GatewayConfig  # It was read already.

        return tuple(each for each in self.connections if not isinstance(each, GatewayConfig))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that runs: pipelines, ingress, egress."""
        return (
            *(pipeline.plan.name for pipeline in self.pipelines),
            *(config.name for config in self.connections),
        )

    def check_names(self, names: Iterable[str]) -> None:
        """Raises `UnknownName` for the first that nothing has."""
        for name in names:
            if name not in self.names:
                raise UnknownName(
                    f"workspace {self.name!r} has no pipeline, ingress or egress {name!r}",
                    cure=did_you_mean(name, self.names),
                )


def load(path: Path | None = None) -> Workspace:
    """Read the workspace at `path`; None means the current folder or those above it."""
    file = read_config(path)
    contracts = load_contracts(file.root / CONTRACTS_FOLDER)
    pipelines = _compile(_files(file.root / PIPELINES_FOLDER, ".py"), contracts)
    workspace = Workspace(
        file=file,
        contracts=contracts,
        pipelines=tuple(pipelines),
        derived={
            output.topic: derived_contract(pipeline.plan, output)
            for pipeline in pipelines
            for output in pipeline.plan.outputs
        },
        ingress=_ingress(_files(file.root / INGRESS_FOLDER, ".yaml", ".yml")),
        egress=_egress(_files(file.root / EGRESS_FOLDER, ".yaml", ".yml")),
    )
    _check_names_once(workspace)
    return workspace


def _ingress(files: Sequence[Path]) -> tuple[IngressConfig, ...]:
    if not files:
        # The start of a process that runs pipelines alone does not wait for what it does not use.
        return ()
    from headrace.ingress.config import load_ingress

    return tuple(map(load_ingress, files))


def _egress(files: Sequence[Path]) -> tuple[EgressConfig, ...]:
    if not files:
        return ()
    from headrace.egress.config import load_egress  # As above.

    return tuple(map(load_egress, files))


def _files(folder: Path, *suffixes: str) -> list[Path]:
    """Files of a folder, by name; those that begin with `_` only help others."""
    return sorted(path for path in folder.glob("*") if path.suffix in suffixes and not path.name.startswith("_"))


def _compile(files: Sequence[Path], contracts: Mapping[str, Contract]) -> list[CompiledPipeline]:
    pipelines = [pipeline for file in files for pipeline in read_pipelines(file)]
    try:
        return compile_pipelines(pipelines, contracts)
    except UnknownTopic as error:
        written = {topic: file for file in files for topic in _written_topics(file)}
        if error.topic not in written:
            raise
        # The topic has a writer, yet that could not be compiled first: it waits for this one.
        raise PipelineCycle(
            f"topic {error.topic!r} is read here, and {written[error.topic].name}, which writes it, waits for a topic "
            "of this file: the pipelines read each other in a circle",
            where=error.where,
            cure=f"break the circle, or describe {error.topic!r} in contracts/",
        ) from error


def _written_topics(file: Path) -> set[str]:
    """Topics that a file's text names in `.to("...")`: only for telling a circle from a missing contract."""
    calls = (node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "to"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def _check_names_once(workspace: Workspace) -> None:
    seen: set[str] = set()
    for name in workspace.names:
        if name in seen:
            raise NameTwice(
                f"two of the pipelines, ingress and egress of workspace {workspace.name!r} are called {name!r}",
                where=Where(str(workspace.root)),
                cure="rename one: names choose what `headrace run` runs",
            )
        seen.add(name)
