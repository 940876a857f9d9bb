"""An environment at work: its log, its registry and the contracts of the workspace.

Owns the way from `headrace.toml` to open connections.

- Opening is cheap and changes nothing; topics and schemas come from `headrace apply` only.
- The environment is chosen by argument, else HEADRACE_ENV, else the file.
- Closing an environment closes its registry, then its log; idempotent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace.contracts.contract import Contract
from headrace.contracts.load import load_contracts
from headrace.contracts.registry import Registry
from headrace.contracts.registry_store import StoredRegistry
from headrace.log.port import Log
from headrace.log.schema_topic import SchemaTopic
from headrace.workspace.config import EnvironmentConfig, WorkspaceFile, read_config
from headrace.workspace.place import LOCAL_FOLDER

CONTRACTS_FOLDER = "contracts"
LOG_FILE = "log.db"


@dataclass(frozen=True, slots=True)
class Environment:
    """One open environment of one workspace."""

    workspace: str
    """The workspace's name."""
    name: str
    root: Path
    config: EnvironmentConfig
    log: Log
    registry: Registry
    contracts: Mapping[str, Contract]
    """Published contracts by topic; those of derived topics are in `Workspace.topics`."""

    def close(self) -> None:
        self.registry.close()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_environment(path: Path | None = None, environment: str | None = None) -> Environment:
    """Open an environment of the workspace at `path` (None: the current folder or above) with its contracts."""
    file = read_config(path)
    return connect(file, _contracts(file), environment)


def read_contracts(path: Path | None = None) -> Mapping[str, Contract]:
    """The contract files of the workspace at `path`, by topic. Opens no connection."""
    return _contracts(read_config(path))


def _contracts(file: WorkspaceFile) -> Mapping[str, Contract]:
    folder = file.root / CONTRACTS_FOLDER
    return load_contracts(folder) if folder.is_dir() else {}


def connect(file: WorkspaceFile, contracts: Mapping[str, Contract], environment: str | None = None) -> Environment:
    """Open an environment of a workspace whose contracts are already read."""
    name = file.environment_name(environment)
    config = file.environment(name)
    log = _open_log(file.root, config)
    return Environment(
        workspace=file.config.name,
        name=name,
        root=file.root,
        config=config,
        log=log,
        registry=_open_registry(log, config),
        contracts=contracts,
    )


def _open_log(root: Path, config: EnvironmentConfig) -> Log:
    if config.log == "kafka":
        from headrace.log.kafka import KafkaLog

        assert config.bootstrap_servers, "checked when the file was read"
        return KafkaLog(config.bootstrap_servers, config=config.client)
    from headrace.log.embedded import EmbeddedLog

    folder = root / LOCAL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return EmbeddedLog(folder / LOG_FILE)


def _open_registry(log: Log, config: EnvironmentConfig) -> Registry:
    if config.uses_builtin_registry:
        return StoredRegistry(SchemaTopic(log, replication_factor=config.replication_factor))
    # Its HTTP client is for those who have such a registry.
    from headrace.contracts.registry_confluent import ConfluentRegistry

    auth = (config.registry_user, config.registry_password or "") if config.registry_user else None
    return ConfluentRegistry(config.registry, auth=auth)
