"""What `egress/*.yaml` says.

Owns the model and the reading of the file.

- A mistake names file and line.
- Connector options are checked by the connector's own model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from headrace.contracts.yaml_model import checked_model, load_model, place_of
from headrace.contracts.yaml_source import read_yaml
from headrace.egress.errors import EgressInvalid
from headrace.egress.sdk import Connector, ConnectorConfig, DriftPolicy, Mode
from headrace.errors import Where

HELP_PAGE = "docs/connectors.md"
TASKS_MAX = 64
"""Each has a thread, a consumer, a connection to the target and a batch in memory."""
EgressName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class BatchLimits(_Model):
    """When staged rows are flushed; the first bound that is reached counts."""

    rows_max: int = Field(default=10_000, ge=1, le=1_000_000)
    bytes_max: int = Field(default=64 * 1024 * 1024, ge=1_024)
    """Of Arrow columns in memory."""
    age_max_ms: int = Field(default=1_000, ge=1, le=3_600_000)
    """Longest wait of a row for others: the usual time from topic to target."""


class RetryLimits(_Model):
    """Pauses between attempts double from `first_ms` to `max_ms`, each shortened by up to half at random."""

    attempts_max: int | None = Field(default=None, ge=1)
    """Attempts of one delivery before the egress stops; None goes on for ever."""
    first_ms: int = Field(default=200, ge=1)
    max_ms: int = Field(default=30_000, ge=1)


class BreakerLimits(_Model):
    """When attempts stop for a while."""

    failures_max: int = Field(default=10, ge=1)
    """Failures in a row after which the target is left alone for `open_ms`, then tried once."""
    open_ms: int = Field(default=60_000, ge=1, le=3_600_000)


class EgressConfig(_Model):
    """One egress: a topic to a target."""

    name: EgressName
    """The file's name without its ending, unless it says another."""
    topic: str = Field(min_length=1)
    connector: str = Field(min_length=1)
    mode: Mode
    options: Mapping[str, Any] = Field(default_factory=dict)
    columns: Mapping[str, str] | None = None
    """Target column to contract column, in the target's order; None takes all. A list takes these under their names."""
    filter: str | None = None
    """A SQL condition over the contract's columns; rows for which it is not true are left out (replicate: deleted)."""
    batch: BatchLimits = Field(default_factory=BatchLimits)
    retry: RetryLimits = Field(default_factory=RetryLimits)
    breaker: BreakerLimits = Field(default_factory=BreakerLimits)
    rows_per_second_max: int | None = Field(default=None, ge=1)
    """Of all tasks together."""
    tasks: int = Field(default=1, ge=1, le=TASKS_MAX)
    """How many deliver at the same time in one process, each its own partitions. Those beyond the number of partitions
    stand idle."""
    drift: DriftPolicy = Field(default_factory=DriftPolicy)
    truncate: Literal["apply", "skip", "refuse"] = "skip"
    """What becomes of the truncation of a source table: the target is emptied too, it is left out and counted, or it is
    a dead letter. As with Debezium's own sink, a target is emptied only where the file says so."""
    owner: str = ""
    description: str = ""
    where: Where | None = Field(default=None, exclude=True)

    @field_validator("columns", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list):
            if len(set(map(str, value))) != len(value):
                raise ValueError("a column stands twice")
            return {name: name for name in value}
        return value

    def place(self, key: str) -> Where | None:
        """Where a key of the file stands."""
        return place_of(self.where, key)

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.dlq"

    @property
    def replay_topic(self) -> str:
        """Dead letters on their way back; made when the first one is replayed."""
        return f"{self.name}.replay"

    def group(self, workspace: str) -> str:
        """The consumer group."""
        return f"{workspace}.egress.{self.name}"


def load_egress(path: Path) -> EgressConfig:
    """Read one file of `egress/`. Raises `YamlInvalid`, `EgressInvalid`."""
    return load_model(path, EgressConfig, error=EgressInvalid, help_page=HELP_PAGE)


def connector_config(config: EgressConfig, connector: Connector) -> ConnectorConfig:
    """What the connector is opened with. Raises `EgressInvalid` for options, a mode or tasks that it does not take."""
    capabilities = connector.capabilities
    if config.mode not in capabilities.modes:
        known = ", ".join(sorted(mode.value for mode in capabilities.modes))
        raise EgressInvalid(
            f"connector {config.connector!r} has no mode {config.mode.value!r}",
            where=config.place("mode"),
            cure=f"choose one of: {known}",
        )
    if config.tasks > 1 and not capabilities.parallel:
        raise EgressInvalid(
            f"connector {config.connector!r} writes its target with one task at a time, `tasks` is {config.tasks}",
            where=config.place("tasks"),
            cure="leave `tasks` out",
        )
    if config.truncate == "apply" and (config.mode is not Mode.REPLICATE or not capabilities.truncate):
        what = f"connector {config.connector!r}" if config.mode is Mode.REPLICATE else f"mode {config.mode.value!r}"
        raise EgressInvalid(
            f"`truncate: apply` asks for what {what} cannot do", where=config.place("truncate"), cure="skip or refuse"
        )
    source = read_yaml(Path(config.where.file)).get("options") if config.where else None
    options = checked_model(
        config.options,
        connector.options_model,
        source=source,
        error=EgressInvalid,
        help_page=HELP_PAGE,
        prefix="options.",
        where=config.place("options"),
    )
    return ConnectorConfig(config.name, config.topic, config.mode, options, config.drift)
