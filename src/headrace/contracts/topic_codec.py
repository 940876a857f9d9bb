"""The codec of a topic's values, as its contract says they are written.

Owns `open_topic_codec`, which everybody calls who reads topics by contract.

- Debezium's codecs, two dozen modules, are loaded with the first contract of theirs.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.contracts.codec import RecordCodec
from headrace.contracts.contract import Contract, ValueFormat
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.registry import Registry


def open_topic_codec(contract: Contract, registry: Registry, *, columns: Collection[str] | None = None) -> RecordCodec:
    """The codec of `contract.value_schema`, whatever the topic's values look like. `columns`: see `open_codec`; only of
    a topic that is no table, and so not Debezium's."""
    assert columns is None or contract.format is ValueFormat.AVRO
    if contract.format is ValueFormat.DEBEZIUM_JSON:
        from headrace.contracts.debezium.value_codec import DebeziumJsonCodec

        return DebeziumJsonCodec(contract.schema, contract.topic)
    if contract.format is ValueFormat.DEBEZIUM_AVRO:
        from headrace.contracts.debezium.avro_codec import DebeziumAvroCodec

        return DebeziumAvroCodec(contract.schema, contract.topic, registry)
    return open_codec(contract.value_schema, registry, f"{contract.topic}-value", columns=columns)
