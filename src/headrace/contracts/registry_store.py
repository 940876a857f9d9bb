"""The built-in registry: schemas kept as records of one shared log.

Owns the meaning of those records. Owns no log: `SchemaStore` is what it asks of one.

- Several processes may register at once. Each reads to the end, proposes the next version and id, appends, and reads
  back: of rival proposals the first one in the log is valid, the others mean nothing, for every reader alike.
- So the state is a pure function of the log's order; a process that loses proposes again.
- A record is never changed or deleted. Each has a key of its own, so that compaction keeps all.
- Equal schemas share one id and GUID in all subjects.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import structlog

from headrace.contracts.avro import AvroSchema, SchemaInvalid
from headrace.contracts.compatibility import check
from headrace.contracts.registry import (
    CompatibilityMode,
    RegisteredSchema,
    RegistryError,
    RegistryUnavailable,
    SchemaIncompatible,
    UnknownSchemaId,
)

REGISTER_ATTEMPTS_MAX = 50
"""Proposals before giving up. Each one that loses means that another process registered something meanwhile."""

FORMAT = 1
"""Version of the records' format. A reader that meets a newer one stops: ids could clash."""

EVERY_SUBJECT = ""
"""The subject whose compatibility mode holds for all subjects without their own."""

_GUID_NAMESPACE = uuid.UUID("9b0d0a5c-3d5e-5b2b-9f0e-6f1c7d0e8a11")

_log = structlog.get_logger(__name__)


class StoredRecord(NamedTuple):
    """A record of a schema store."""

    position: int
    key: bytes | None
    value: bytes | None


class SchemaStore(Protocol):
    """One totally ordered log of small records. Calls come one at a time, but from any thread."""

    def append(self, key: bytes, value: bytes) -> None:
        """Add a record; durable and visible to `read_from` when this returns, or raises `RegistryUnavailable`.

        After a raise the record may still be there.
        """

    def read_from(self, position: int) -> tuple[Sequence[StoredRecord], int]:
        """All records at `position` or after it, up to the end when called, and the position after them.

        The beginning is 0. Empty for a store that nothing was appended to.
        """

    def close(self) -> None:
        """Idempotent."""


class RegistryStoreInvalid(RegistryError):
    """The schema store holds what this version of headrace must not build on."""

    code = "registry.store_invalid"


def schema_guid(schema: AvroSchema) -> uuid.UUID:
    """The GUID of a schema: the same for equal schemas, everywhere."""
    return uuid.uuid5(_GUID_NAMESPACE, schema.normalised)


@dataclass(slots=True)
class _State:
    """What the records read so far mean."""

    subjects: dict[str, list[RegisteredSchema]] = field(default_factory=dict)
    by_schema: dict[AvroSchema, int] = field(default_factory=dict)
    by_id: dict[int, AvroSchema] = field(default_factory=dict)
    by_guid: dict[uuid.UUID, AvroSchema] = field(default_factory=dict)
    modes: dict[str, CompatibilityMode] = field(default_factory=dict)

    def find(self, subject: str, schema: AvroSchema) -> RegisteredSchema | None:
        return next((each for each in self.subjects.get(subject, ()) if each.schema == schema), None)

    def propose(self, subject: str, schema: AvroSchema) -> RegisteredSchema:
        version = len(self.subjects.get(subject, ())) + 1
        schema_id = self.by_schema.get(schema, len(self.by_id) + 1)
        return RegisteredSchema(subject, version, schema_id, schema_guid(schema), schema)

    def apply(self, entry: RegisteredSchema) -> bool:
        """Take the entry if it is what would be proposed now; a rival that came second is not."""
        proposal = self.propose(entry.subject, entry.schema)
        if self.find(entry.subject, entry.schema) or (entry.version, entry.id) != (proposal.version, proposal.id):
            return False
        self.subjects.setdefault(entry.subject, []).append(entry)
        self.by_schema.setdefault(entry.schema, entry.id)
        self.by_id.setdefault(entry.id, entry.schema)
        self.by_guid.setdefault(entry.guid, entry.schema)
        return True

    def mode(self, subject: str) -> CompatibilityMode:
        default = self.modes.get(EVERY_SUBJECT, CompatibilityMode.BACKWARD)
        return self.modes.get(subject, default)


class StoredRegistry:
    """A `Registry` over a `SchemaStore`."""

    def __init__(self, store: SchemaStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._state = _State()
        self._position = 0

    def register(self, subject: str, schema: AvroSchema) -> RegisteredSchema:
        with self._lock:
            for _ in range(REGISTER_ATTEMPTS_MAX):
                known = self._state.find(subject, schema) or self._refreshed().find(subject, schema)
                if known:
                    return known
                self._check(subject, schema)
                self._store.append(*_schema_record(self._state.propose(subject, schema)))
            self._refreshed()
            known = self._state.find(subject, schema)
            if known:
                return known
        raise RegistryUnavailable(f"subject {subject!r}: {REGISTER_ATTEMPTS_MAX} proposals lost to other writers")

    def by_id(self, schema_id: int) -> AvroSchema:
        known = self._state.by_id.get(schema_id)
        if known is None:
            with self._lock:
                known = self._refreshed().by_id.get(schema_id)
        if known is None:
            raise UnknownSchemaId(f"no schema has the id {schema_id}")
        return known

    def by_guid(self, guid: uuid.UUID) -> AvroSchema:
        known = self._state.by_guid.get(guid)
        if known is None:
            with self._lock:
                known = self._refreshed().by_guid.get(guid)
        if known is None:
            raise UnknownSchemaId(f"no schema has the GUID {guid}")
        return known

    def latest(self, subject: str) -> RegisteredSchema | None:
        versions = self.versions(subject)
        return versions[-1] if versions else None

    def versions(self, subject: str) -> Sequence[RegisteredSchema]:
        with self._lock:
            return tuple(self._refreshed().subjects.get(subject, ()))

    def subjects(self) -> Sequence[str]:
        with self._lock:
            return tuple(sorted(self._refreshed().subjects))

    def compatibility(self, subject: str) -> CompatibilityMode:
        with self._lock:
            return self._refreshed().mode(subject)

    def set_compatibility(self, subject: str, mode: CompatibilityMode) -> None:
        with self._lock:
            if self._refreshed().modes.get(subject) is not mode:
                self._store.append(*_mode_record(subject, mode))
                self._refreshed()

    def close(self) -> None:
        with self._lock:
            self._store.close()

    def _check(self, subject: str, schema: AvroSchema) -> None:
        mode = self._state.mode(subject)
        versions = self._state.subjects.get(subject, [])
        found = check(schema, [each.schema for each in versions], mode)
        if found:
            reasons = [each.sentence(f"version {versions[each.against].version}") for each in found]
            raise incompatible(subject, mode, reasons)

    def _refreshed(self) -> _State:
        records, position = self._store.read_from(self._position)
        for record in records:
            self._take(record)
        self._position = position
        return self._state

    def _take(self, record: StoredRecord) -> None:
        entry = _parse(record)
        if isinstance(entry, RegisteredSchema):
            self._state.apply(entry)
        elif entry is not None:
            subject, mode = entry
            self._state.modes[subject] = mode


def incompatible(subject: str, mode: CompatibilityMode, reasons: Sequence[str]) -> SchemaIncompatible:
    """The error of a schema that may not follow its subject's versions."""
    return SchemaIncompatible(
        f"subject {subject!r} is {mode.value} compatible and the new schema is not: {'; '.join(reasons)}",
        reasons=reasons,
    )


def _schema_record(entry: RegisteredSchema) -> tuple[bytes, bytes]:
    key = {
        "headrace": FORMAT,
        "type": "schema",
        "subject": entry.subject,
        "version": entry.version,
        "id": entry.id,
        "fingerprint": entry.schema.fingerprint.hex(),
        # Without it a repeated proposal would let compaction drop the earlier, valid one and a rival between win.
        "attempt": uuid.uuid4().hex,
    }
    return _json(key), _json({"schema": entry.schema.text, "guid": str(entry.guid)})


def _mode_record(subject: str, mode: CompatibilityMode) -> tuple[bytes, bytes]:
    return _json({"headrace": FORMAT, "type": "compatibility", "subject": subject}), _json({"mode": mode.value})


def _parse(record: StoredRecord) -> RegisteredSchema | tuple[str, CompatibilityMode] | None:
    key = _object(record.key)
    if key is None or "headrace" not in key:
        _refuse_other_registry(key, record.position)
        _log.warning("schema_store_record_skipped", position=record.position, reason="not written by headrace")
        return None
    if key["headrace"] != FORMAT:
        raise RegistryStoreInvalid(
            f"record {record.position} of the schema store has format {key['headrace']}, this headrace reads {FORMAT}",
            cure="use the headrace version that wrote it",
        )
    try:
        value = json.loads(record.value or b"")
        if key["type"] == "compatibility":
            return str(key["subject"]), CompatibilityMode(value["mode"])
        schema = AvroSchema.parse(value["schema"])
        return RegisteredSchema(key["subject"], key["version"], key["id"], uuid.UUID(value["guid"]), schema)
    except (ValueError, KeyError, TypeError, SchemaInvalid) as error:
        raise RegistryStoreInvalid(
            f"record {record.position} of the schema store cannot be read: {type(error).__name__}: {error}",
            cure="restore the schema topic from a copy",
        ) from error


def _refuse_other_registry(key: dict[str, Any] | None, position: int) -> None:
    if key is not None and "keytype" in key:
        raise RegistryStoreInvalid(
            f"record {position} of the schema store was written by a Confluent schema registry",
            cure="point the workspace at that registry by its URL",
        )


def _object(data: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(data or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _json(node: dict[str, Any]) -> bytes:
    return json.dumps(node, ensure_ascii=False, separators=(",", ":")).encode()
