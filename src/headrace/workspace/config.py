"""`headrace.toml`: the name of a workspace and the environments it runs in.

Owns the file's model and its reading. Opens no connection and imports no log.

- Unknown keys are refused, with file, line and the nearest known key.
- `${NAME}` stands for an environment variable and is replaced only for the environment that is opened, so that a
  missing production secret never stops development.
- A setting whose name says that it is a secret must be a `${NAME}`: secrets are not kept in files.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from headrace.contracts.duration import parse_duration_ms
from headrace.engine.settings import BATCH_RECORDS_LIMIT, BATCH_RECORDS_MAX
from headrace.errors import Where
from headrace.workspace.errors import (
    ConfigInvalid,
    UnknownEnvironment,
    VariableUnset,
    did_you_mean,
)
from headrace.workspace.place import find_workspace
from headrace.workspace.toml_lines import TomlLines, syntax_error_line

ENVIRONMENT_VARIABLE = "HEADRACE_ENV"
SNAPSHOT_INTERVAL_MS_MIN = 1_000
PARTITIONS_DEFAULT = 4
"""Enough for a few workers to share; a topic that needs more says so in its contract."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = re.compile(r"password|secret|token|credential|private|passphrase|\.key\.pem$|sasl\.jaas", re.IGNORECASE)
_BUILTIN = "builtin"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SnapshotsConfig(_Section):
    """`[environments.<name>.snapshots]`: where copies of local state are kept (`headrace.engine.snapshots`)."""

    url: str = Field(min_length=1)
    """A folder, relative to the workspace's, or `s3://bucket/prefix`."""
    interval: str = "5m"
    """A copy of each partition's state at most this often."""
    client: Mapping[str, str] = Field(default_factory=dict)
    """Settings of the object store's client, by obstore's names."""

    @property
    def interval_s(self) -> float:
        return parse_duration_ms(self.interval) / 1000


class EnvironmentConfig(_Section):
    """One `[environments.<name>]`."""

    log: Literal["embedded", "kafka"]
    bootstrap_servers: str | None = None
    """Kafka only: `host:port,host:port`."""
    registry: str = _BUILTIN
    """`builtin` keeps schemas in a topic of the log; a URL names a Confluent-compatible registry."""
    registry_user: str | None = None
    registry_password: str | None = None
    partitions: int = Field(default=PARTITIONS_DEFAULT, ge=1)
    """Partitions of a topic whose contract does not say."""
    replication_factor: int = Field(default=-1, ge=-1)
    """-1 leaves it to the broker."""
    topic: Mapping[str, str] = Field(default_factory=dict)
    """Settings of every topic that headrace creates, by Kafka's names."""
    client: Mapping[str, str] = Field(default_factory=dict)
    """Settings of every Kafka client, by librdkafka's names."""
    snapshots: SnapshotsConfig | None = None
    """Without them a worker whose disk is new reads the whole changelog."""

    @property
    def uses_builtin_registry(self) -> bool:
        return self.registry == _BUILTIN


class EngineConfig(_Section):
    """`[engine]`: how workers run pipelines. No value changes a result."""

    batch_records_max: int = Field(default=BATCH_RECORDS_MAX, ge=1, le=BATCH_RECORDS_LIMIT)
    """Records asked of one poll."""
    state_memory_mb_max: int | None = Field(default=None, ge=1)
    """Memory that one pipeline's state may take in one process; without it a share of the machine's."""
    membership: Literal["dynamic", "static"] = "dynamic"
    """Kafka only. Static members find their partitions again after a restart, and nobody else notices; those of a
    killed one stand still until its session times out."""


class HttpConfig(_Section):
    """`[http]`: what each worker process serves (`headrace.workspace.http_server`)."""

    host: str = "127.0.0.1"
    """Where to listen; all addresses only when somebody says so."""
    port: int = Field(default=0, ge=0, le=65_535)
    """Of a machine's first worker; the next takes the next. 0 serves nothing."""
    advertise: str | None = None
    """The host by which other workers reach this machine; without it `host`, or the machine's name where that is all
    addresses."""
    tables: bool = True
    """Whether rows of tables are served, to whoever reaches the port."""
    ready_lag_seconds: float = Field(default=30.0, gt=0)
    """A process that is behind by more is not ready."""


class WorkspaceConfig(_Section):
    """The whole file."""

    name: Name
    environment: str = "dev"
    """The environment used when neither `--env` nor HEADRACE_ENV names one."""
    engine: EngineConfig = Field(default_factory=EngineConfig)
    http: HttpConfig = Field(default_factory=HttpConfig)
    environments: Mapping[Name, EnvironmentConfig] = Field(
        default_factory=lambda: {"dev": EnvironmentConfig(log="embedded")}
    )


_SECTIONS: Mapping[str, type[_Section]] = {
    "engine": EngineConfig,
    "http": HttpConfig,
    "environments": EnvironmentConfig,
}


def _section_of(keys: tuple[str, ...]) -> type[_Section]:
    """The section that a key path ends in."""
    if keys[0] == "environments" and keys[2:3] == ("snapshots",) and len(keys) > 3:
        return SnapshotsConfig
    return _SECTIONS.get(keys[0], WorkspaceConfig) if len(keys) > 1 else WorkspaceConfig


class WorkspaceFile:
    """A read `headrace.toml`: its values, and the lines they stand on."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._lines = TomlLines(text)
        self.config = self._parse(text)
        self._check()

    @property
    def root(self) -> Path:
        return self.path.parent

    def where(self, *keys: str) -> Where:
        """The place of a key, for errors."""
        return Where(str(self.path), self._lines.line_of(keys))

    def environment_name(self, chosen: str | None = None) -> str:
        """The environment to use: `chosen`, else HEADRACE_ENV, else the file's default."""
        name = chosen or os.environ.get(ENVIRONMENT_VARIABLE) or self.config.environment
        if name not in self.config.environments:
            raise UnknownEnvironment(
                f"no environment {name!r}",
                where=self.where("environments"),
                cure=did_you_mean(name, self.config.environments),
            )
        return name

    def environment(self, name: str) -> EnvironmentConfig:
        """The environment with every `${NAME}` replaced."""
        section = self.config.environments[name]
        filled = self._fill(section.model_dump(), ("environments", name))
        return EnvironmentConfig.model_validate(filled)

    def _parse(self, text: str) -> WorkspaceConfig:
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = syntax_error_line(error) or text.count("\n") + 1
            raise ConfigInvalid(
                f"not valid TOML: {error}", where=Where(str(self.path), line), cure="mend the syntax of this line"
            ) from error
        try:
            return WorkspaceConfig.model_validate(values)
        except ValidationError as error:
            raise self._invalid(error) from error

    def _invalid(self, error: ValidationError) -> ConfigInvalid:
        problem = error.errors(include_url=False)[0]
        keys = tuple(str(part) for part in problem["loc"] if part != "[key]")
        where, dotted = self.where(*keys), ".".join(keys)
        if problem["type"] == "extra_forbidden":
            section = _section_of(keys)
            return ConfigInvalid(
                f"unknown key {dotted!r}", where=where, cure=did_you_mean(keys[-1], section.model_fields)
            )
        if problem["type"] == "missing":
            return ConfigInvalid(f"{dotted!r} is missing", where=where, cure=f"add `{keys[-1]} = ...`")
        if problem["type"] == "string_pattern_mismatch":
            message = f"{dotted!r} is not a name: {problem['input']!r}"
            return ConfigInvalid(
                message, where=where, cure="use lower case letters, digits, '-' and '_', first a letter"
            )
        return ConfigInvalid(f"{dotted!r}: {problem['msg']}", where=where, cure="see docs/workspace.md")

    def _check(self) -> None:
        config = self.config
        if config.environment not in config.environments:
            raise ConfigInvalid(
                f"the default environment {config.environment!r} has no section",
                where=self.where("environment"),
                cure=did_you_mean(config.environment, config.environments),
            )
        for name, section in config.environments.items():
            self._check_environment(name, section)

    def _check_environment(self, name: str, section: EnvironmentConfig) -> None:
        if section.log == "kafka" and not section.bootstrap_servers:
            raise ConfigInvalid(
                f"environment {name!r} uses Kafka but has no bootstrap_servers",
                where=self.where("environments", name),
                cure='add `bootstrap_servers = "${KAFKA_BOOTSTRAP}"`',
            )
        kafka_only = ("bootstrap_servers", "client", "snapshots")
        key = next((each for each in kafka_only if getattr(section, each)), None)
        if section.log == "embedded" and key is not None:
            raise ConfigInvalid(
                f"{key!r} means nothing to the embedded log",
                where=self.where("environments", name, key),
                cure='remove it, or set `log = "kafka"`',
            )
        if section.replication_factor == 0:
            raise ConfigInvalid(
                "a topic has at least one replica",
                where=self.where("environments", name, "replication_factor"),
                cure="write 1 or more, or leave it out: the broker's default",
            )
        if not section.uses_builtin_registry and not section.registry.startswith(("http://", "https://", "${")):
            raise ConfigInvalid(
                f"registry {section.registry!r} is neither 'builtin' nor a URL",
                where=self.where("environments", name, "registry"),
                cure="write a URL that begins with http:// or https://",
            )
        self._check_snapshots(name, section)
        self._check_secrets(name, section)

    def _check_snapshots(self, name: str, section: EnvironmentConfig) -> None:
        if section.snapshots is None:
            return
        where = self.where("environments", name, "snapshots", "interval")
        if parse_duration_ms(section.snapshots.interval, where=where) < SNAPSHOT_INTERVAL_MS_MIN:
            raise ConfigInvalid(
                f"snapshots every {section.snapshots.interval!r} would never end",
                where=where,
                cure="write 1s or more",
            )

    def _check_secrets(self, name: str, section: EnvironmentConfig) -> None:
        settings: dict[tuple[str, ...], str] = {("client", key): value for key, value in section.client.items()}
        settings[("registry_password",)] = section.registry_password or ""
        if section.snapshots is not None:
            settings |= {("snapshots", "client", key): value for key, value in section.snapshots.client.items()}
        for keys, value in settings.items():
            if value and _SECRET.search(keys[-1]) and not _VARIABLE.fullmatch(value):
                raise ConfigInvalid(
                    f"{'.'.join(keys)!r} is a secret written into a file",
                    where=self.where("environments", name, *keys),
                    cure='put it into an environment variable and write "${NAME}" here',
                )

    def _fill(self, value: Any, keys: tuple[str, ...]) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(lambda match: self._variable(match.group(1), keys), value)
        if isinstance(value, Mapping):
            return {key: self._fill(item, (*keys, key)) for key, item in value.items()}
        return value

    def _variable(self, name: str, keys: tuple[str, ...]) -> str:
        value = os.environ.get(name)
        if not value:
            state = "not set" if value is None else "empty"
            raise VariableUnset(
                f"{'.'.join(keys)!r} needs the environment variable {name}, which is {state}",
                where=self.where(*keys),
                cure=f"export {name}=... and try again",
            )
        return value


def read_config(path: Path | None = None) -> WorkspaceFile:
    """Read the workspace of `path`: a folder, the file itself, or None for the current folder and those above it."""
    file = find_workspace(path)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigInvalid(
            f"not UTF-8 text: {error.reason}", where=Where(str(file)), cure="save it as UTF-8"
        ) from error
    return WorkspaceFile(file, text)
