"""The values of a workspace plan: changes, verdicts and problems.

Owns what `headrace plan` shows and `headrace apply` walks. Touches nothing.

- Every value is frozen, says itself in one line (`summary`) and as JSON (`as_json`).
- A problem anywhere in a plan keeps all of it from being applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import CompatibilityMode
from headrace.errors import HeadraceError, Where
from headrace.log.port import TopicSpec

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateTopic:
    """A topic that is not there."""

    action: ClassVar[str] = "create_topic"
    spec: TopicSpec
    purpose: str

    @property
    def target(self) -> str:
        return self.spec.name

    @property
    def summary(self) -> str:
        count = self.spec.partitions
        return f"{self.purpose}: {count} partition{'s' if count != 1 else ''}, {settings_text(self.spec.config)}"

    def as_json(self) -> Json:
        return {
            "purpose": self.purpose,
            "partitions": self.spec.partitions,
            "replication_factor": self.spec.replication_factor,
            "config": dict(self.spec.config),
        }


@dataclass(frozen=True, slots=True)
class AddPartitions:
    """A topic with fewer partitions than its contract asks for."""

    action: ClassVar[str] = "add_partitions"
    target: str
    before: int
    after: int

    @property
    def summary(self) -> str:
        return f"from {self.before} to {self.after} partitions"

    def as_json(self) -> Json:
        return {"before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class AlterTopic:
    """A topic whose settings differ. Only the settings that differ are held."""

    action: ClassVar[str] = "alter_topic"
    target: str
    before: Mapping[str, str | None]
    """None: not set, the log's default holds."""
    after: Mapping[str, str]

    @property
    def summary(self) -> str:
        return ", ".join(
            f"{key} from {_setting(self.before[key])} to {_setting(value)}" for key, value in sorted(self.after.items())
        )

    def as_json(self) -> Json:
        return {"before": dict(self.before), "after": dict(self.after)}


@dataclass(frozen=True, slots=True)
class SetCompatibility:
    """A subject whose compatibility mode is not the contract's."""

    action: ClassVar[str] = "set_compatibility"
    target: str
    before: CompatibilityMode
    after: CompatibilityMode

    @property
    def summary(self) -> str:
        return f"from {self.before.value} to {self.after.value}"

    def as_json(self) -> Json:
        return {"before": self.before.value, "after": self.after.value}


@dataclass(frozen=True, slots=True)
class RegisterSchema:
    """A schema that becomes a version of its subject."""

    action: ClassVar[str] = "register_schema"
    target: str
    schema: AvroSchema
    version: int
    """The version that it becomes."""
    mode: CompatibilityMode

    @property
    def summary(self) -> str:
        if self.version == 1:
            return f"first version ({self.mode.value})"
        return f"version {self.version} ({self.mode.value})"

    def as_json(self) -> Json:
        return {"version": self.version, "mode": self.mode.value, "schema": self.schema.definition}


@dataclass(frozen=True, slots=True)
class SetUpIngress:
    """Something that a source needs before it can be read, such as triggers in a database."""

    action: ClassVar[str] = "set_up_ingress"
    target: str
    summary: str

    def as_json(self) -> Json:
        return {}


Change = CreateTopic | AddPartitions | AlterTopic | SetCompatibility | RegisterSchema | SetUpIngress

SIGNS: Mapping[str, str] = {
    CreateTopic.action: "+",
    AddPartitions.action: "~",
    AlterTopic.action: "~",
    SetCompatibility.action: "~",
    RegisterSchema.action: "+",
    SetUpIngress.action: "+",
}
"""What stands before a change on the terminal: added or altered."""


@dataclass(frozen=True, slots=True)
class SchemaVerdict:
    """Whether a subject may take the workspace's schema."""

    subject: str
    mode: CompatibilityMode
    verdict: str
    """new, unchanged, compatible or incompatible"""
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What the mode allows and a person should see: bytes of the last version would be understood otherwise."""

    def as_json(self) -> Json:
        return {
            "subject": self.subject,
            "mode": self.mode.value,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plan cannot be applied."""

    code: str
    message: str
    where: Where | None = None
    cure: str = ""

    @classmethod
    def of(cls, error: HeadraceError) -> Problem:
        return cls(error.code, error.message, error.where, error.cure)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f"; {self.cure}" if self.cure else ""
        return f"{place}{self.message}{cure}"

    def as_json(self) -> Json:
        return {
            "code": self.code,
            "message": self.message,
            "file": self.where.file if self.where else None,
            "line": self.where.line or None if self.where else None,
            "cure": self.cure,
        }


def change_json(change: Change) -> Json:
    """A change with what all changes have."""
    return {"action": change.action, "target": change.target, "summary": change.summary, **change.as_json()}


def settings_text(config: Mapping[str, str]) -> str:
    """Topic settings in one line."""
    return ", ".join(f"{key}={_setting(value)}" for key, value in sorted(config.items())) or "the log's defaults"


def sentences(problems: Sequence[Problem]) -> tuple[str, ...]:
    """The problems as text."""
    return tuple(str(problem) for problem in problems)


def _setting(value: str | None) -> str:
    return "the default" if value is None else value
