"""Rows of an outbox to the records of their topics.

Owns the second check of an event, which a row that another program wrote meets for the first time.

- A row becomes one record or one dead letter with the reason; the rows of a topic keep their order.
- The record is what a `Publisher` would have made when the row was written: of the schema of that moment where the
  registry knows it, else of today's; its timestamp is the row's, its headers are the row's and the id of the event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.errors import Fault
from headrace.ingress.cdc.changes import Changes
from headrace.ingress.cdc.envelopes import DeadChange, Envelopes
from headrace.ingress.cdc.postgres.rows import PostgresChanges
from headrace.ingress.cdc.postgres.text_columns import TextColumns
from headrace.ingress.encoder import RECORD_TIME, Entry, TopicEncoder
from headrace.ingress.outbox_table import EVENT_ID_HEADER, headers_of, outbox_contract
from headrace.ingress.values import Form
from headrace.ingress.violations import ContractViolation, IngressError
from headrace.log.columns import HeaderRow
from headrace.log.dead_letters import Reason, error_headers
from headrace.log.port import Outgoing

ENCODERS_KEPT_MAX = 256
"""Of topics and schemas of theirs that are written at the same time."""


class OutboxTopicRefused(IngressError):
    """A row of an outbox for a topic that its ingress does not write to."""

    code: ClassVar[str] = "ingress.outbox_topic"
    fault = Fault.ROW


@dataclass(frozen=True, slots=True)
class _Event:
    """A row that may be published. `index` is its place among the changes."""

    index: int
    entry: Entry
    schema: str | None


class OutboxEncoder:
    """Encodes the rows of one outbox. Raises `RegistryUnavailable`; the same call may be made again."""

    def __init__(self, table: str, topics: Mapping[str, Contract], registry: Registry, *, ingress: str) -> None:
        self._table, self._topics, self._registry, self._ingress = table, topics, registry, ingress
        self.contract = outbox_contract(table)
        self._encoders: dict[tuple[str, str | None], TopicEncoder] = {}

    def encode(self, changes: Changes) -> list[Envelopes]:
        """The records of these rows, for each topic in order."""
        assert isinstance(changes, PostgresChanges)
        built = TextColumns(self.contract.schema, dict(changes.types)).from_values(changes.after, len(changes))
        bad = {row: Reason("encode", ContractViolation.code, str(misfit)) for row, misfit in built.misfits.items()}
        by_topic: dict[str, list[_Event]] = {}
        for index, row in zip(built.rows.tolist(), built.table.to_pylist(), strict=True):
            try:
                by_topic.setdefault(row["topic"], []).append(self._event(index, row))
            except IngressError as error:
                bad[index] = Reason("encode", error.code, error.message)
        found = [
            self._records(changes, topic, schema, list(events))
            for topic, all_events in by_topic.items()
            for schema, events in groupby(all_events, key=lambda event: event.schema)
        ]
        dead = [self.dead_change(changes, row, bad[row]) for row in sorted(bad)]
        return [*found, Envelopes(_nothing(self._table), np.empty(0, np.int64), dead)] if dead else found

    def dead_change(self, changes: Changes, row: int, reason: Reason, *, with_value: bool = True) -> DeadChange:
        """The dead letter of one row: its columns as JSON, with or without what it says."""
        columns = {name: _text(values[row]) for name, values in changes.after.items()}
        told = columns if with_value else {name: columns[name] for name in ("number", "event_id", "topic")}
        place = {
            "topic": columns["topic"],
            "offset": columns["number"],
            "time": changes.changed_at_ms[row],
            "original": "false",
        }
        headers = error_headers(reason, pipeline=self._ingress, step=self._table, place=place)
        key = json.dumps({"event_id": columns["event_id"]}).encode()
        return DeadChange(key, json.dumps(told).encode(), changes.changed_at_ms[row], headers)

    def _event(self, index: int, row: Mapping[str, Any]) -> _Event:
        topic = row["topic"]
        if topic not in self._topics:
            raise OutboxTopicRefused(f"topic {topic!r} is not among the topics of this outbox")
        try:
            payload = json.loads(row["payload"], parse_constant=_refused_constant)
            headers = headers_of(row["headers"])
        except ValueError as error:
            raise ContractViolation(topic=topic, field="", reason=f"cannot be read: {error}") from error
        if not isinstance(payload, dict):
            raise ContractViolation(topic=topic, field="", reason="has a payload that is no JSON object")
        told: HeaderRow = [*headers, (EVENT_ID_HEADER, row["event_id"].encode())]
        entry = Entry(topic, payload, row["timestamp_ms"], told, is_deletion=row["is_deletion"])
        return _Event(index, entry, row["schema"])

    def _records(self, changes: Changes, topic: str, schema: str | None, events: Sequence[_Event]) -> Envelopes:
        prepared = self._encoder(topic, schema).encode_entries([event.entry for event in events])
        indexes = np.array([event.index for event in events], dtype=np.int64)
        dead = [
            self.dead_change(changes, events[row].index, Reason("encode", error.code, error.message))
            for row, error in sorted(prepared.violations.items())
        ]
        return Envelopes(prepared.outgoing, indexes[prepared.rows], dead)

    def _encoder(self, topic: str, fingerprint: str | None) -> TopicEncoder:
        """Of the schema that the row was written by; of today's where nobody knows that one."""
        found = self._encoders.get((topic, fingerprint))
        if found is not None:
            return found
        contract = self._topics[topic]
        schema = self._schema(contract, fingerprint)
        if schema is None:
            # Asked again next time: it may be registered by then.
            return self._kept(topic, None, contract)
        return self._kept(topic, fingerprint, replace(contract, schema=schema))

    def _kept(self, topic: str, fingerprint: str | None, contract: Contract) -> TopicEncoder:
        if (topic, fingerprint) not in self._encoders:
            if len(self._encoders) >= ENCODERS_KEPT_MAX:
                self._encoders.clear()
            self._encoders[topic, fingerprint] = TopicEncoder(contract, self._registry, form=Form.JSON)
        return self._encoders[topic, fingerprint]

    def _schema(self, contract: Contract, fingerprint: str | None) -> AvroSchema | None:
        if fingerprint is None or fingerprint == contract.schema.fingerprint.hex():
            return contract.schema if fingerprint else None
        needed = {*contract.key, *(() if contract.time in (None, RECORD_TIME) else (contract.time,))}
        for version in self._registry.versions(f"{contract.topic}-value"):
            if version.schema.fingerprint.hex() == fingerprint:
                return version.schema if needed <= {each.name for each in version.schema.fields} else None
        return None


def _nothing(topic: str) -> Outgoing:
    return Outgoing(topic, pa.array([], pa.large_binary()))


def _refused_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _text(value: Any) -> str | None:
    return value.as_py().decode(errors="backslashreplace") if value.is_valid else None
