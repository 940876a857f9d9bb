"""The contract of a topic: schema, key, event time, owner, compatibility, retention, tags.

Owns the `Contract` value. `contracts.load` reads it from YAML and `.avsc`; the flow room infers it for derived topics.

- A contract is frozen and complete: nothing about the topic's meaning is kept elsewhere.
- `schema` is the Avro record of a row. For `kind: change` it is the row inside the envelope;
  `value_schema` is what is on the wire.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.contracts.avro import AvroSchema
from headrace.contracts.envelope import envelope_schema
from headrace.contracts.registry import CompatibilityMode
from headrace.errors import Where

EVENT_TIME_AHEAD_MAX_MS = 24 * 60 * 60 * 1000
"""Default bound of event time beyond the record's own timestamp; further ahead is an absurd time (a wrong unit, a
broken clock) that would close every window. Compared with the record's timestamp, not the clock, so a replay agrees."""

RECORD_TIMESTAMP = "$timestamp"
"""What a contract file writes as `time:` to say that the record's own timestamp is the event time, on purpose."""


class TopicKind(enum.Enum):
    """What a record of the topic means."""

    EVENT = "event"
    """Something that happened; never replaced."""
    TABLE = "table"
    """The latest record of a key is the row; a null value deletes it."""
    CHANGE = "change"
    """A Debezium envelope: before, after, source, op."""


class KeyEncoding(enum.Enum):
    """How the key's bytes are made."""

    AVRO = "avro"
    """A framed Avro record of the key fields, subject `<topic>-key`."""
    STRING = "string"
    """The UTF-8 text of the only key field, as Kafka's StringSerializer writes it."""


class ValueFormat(enum.Enum):
    """Who writes the topic's records, and how."""

    AVRO = "avro"
    """Framed Avro of the contract's own schema, written by headrace or by any client that follows the contract."""
    DEBEZIUM_AVRO = "debezium_avro"
    """Avro that a Debezium connector writes, with schemas and types of its own. Only read."""
    DEBEZIUM_JSON = "debezium_json"
    """JSON that a Debezium connector writes, keys too, with or without a schema in each record. Only read."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One topic's contract. `retention_ms` None keeps records for ever."""

    topic: str
    schema: AvroSchema
    owner: str = ""
    description: str = ""
    kind: TopicKind = TopicKind.EVENT
    key: tuple[str, ...] = ()
    """Columns of `schema` that make the key, in order; empty for keyless topics."""
    key_encoding: KeyEncoding = KeyEncoding.AVRO
    format: ValueFormat = ValueFormat.AVRO
    """How the records are written. Only a topic of kind `change` may be Debezium's."""
    time: str | None = None
    """Column of `schema` with the event time; None for the record's timestamp."""
    record_time: bool = False
    """The contract says that the record's timestamp is the event time (`time` is None). Windows need one of the two."""
    time_ahead_max_ms: int = EVENT_TIME_AHEAD_MAX_MS
    compatibility: CompatibilityMode = CompatibilityMode.BACKWARD
    retention_ms: int | None = None
    partitions: int | None = None
    """Partitions when headrace creates the topic; None for the workspace's default."""
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tags by column."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Unit of measure by column."""
    where: Where | None = None

    @property
    def key_schema(self) -> AvroSchema | None:
        """The Avro record of the key fields, None for keyless topics."""
        return self.schema.project(self.key, name=f"{self.schema.name}Key") if self.key else None

    @property
    def value_schema(self) -> AvroSchema:
        """The schema of the values on the wire: the row, or for `kind: change` its Debezium envelope."""
        return envelope_schema(self.schema) if self.kind is TopicKind.CHANGE else self.schema
