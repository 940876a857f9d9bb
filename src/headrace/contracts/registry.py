"""The schema registry port: schemas by subject, version, id and GUID.

Owns the protocol that the built-in registry and the Confluent client implement, and their errors.

- An id always means the same schema; equal schemas (same canonical text) share one id.
- Registering is idempotent and checks the subject's compatibility mode first.
- Subjects follow TopicNameStrategy: `<topic>-key` and `<topic>-value`.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from headrace.contracts.avro import AvroSchema
from headrace.errors import Fault, HeadraceError


class CompatibilityMode(enum.Enum):
    """The seven modes of the Confluent registry."""

    NONE = "none"
    BACKWARD = "backward"
    BACKWARD_TRANSITIVE = "backward_transitive"
    FORWARD = "forward"
    FORWARD_TRANSITIVE = "forward_transitive"
    FULL = "full"
    FULL_TRANSITIVE = "full_transitive"


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """One version of a subject."""

    subject: str
    version: int
    """Counts from 1."""
    id: int
    guid: uuid.UUID
    schema: AvroSchema


class Registry(Protocol):
    """Schemas by subject. Thread-safe. Every call may raise `RegistryUnavailable`."""

    def register(self, subject: str, schema: AvroSchema) -> RegisteredSchema:
        """Add a version, or return the one that is there. Raises `SchemaIncompatible` with every reason."""

    def by_id(self, schema_id: int) -> AvroSchema:
        """Raises `UnknownSchemaId`. Cached for ever."""

    def by_guid(self, guid: uuid.UUID) -> AvroSchema:
        """Raises `UnknownSchemaId`. Cached for ever."""

    def latest(self, subject: str) -> RegisteredSchema | None: ...

    def versions(self, subject: str) -> Sequence[RegisteredSchema]:
        """Oldest first; empty for an unknown subject."""

    def subjects(self) -> Sequence[str]: ...

    def compatibility(self, subject: str) -> CompatibilityMode:
        """The subject's mode; BACKWARD when never set."""

    def set_compatibility(self, subject: str, mode: CompatibilityMode) -> None: ...

    def close(self) -> None: ...


class RegistryError(HeadraceError):
    """Something about the schema registry."""

    code = "registry.error"


class RegistryUnavailable(RegistryError):
    """The registry cannot be reached, or answers that it is unwell."""

    code: ClassVar[str] = "registry.unavailable"
    fault = Fault.RETRY


class UnknownSchemaId(RegistryError):
    """No schema has this id or GUID."""

    code = "registry.unknown_schema_id"
    fault = Fault.ROW


class SchemaIncompatible(RegistryError):
    """A new schema breaks the subject's compatibility mode. `reasons` has one sentence per difference."""

    code = "registry.schema_incompatible"

    def __init__(self, message: str, *, reasons: Sequence[str] = ()) -> None:
        self.reasons = tuple(reasons)
        super().__init__(message)
