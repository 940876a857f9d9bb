"""A stage for egress tests: a log, a registry, a topic, and runners that deliver from it.

Owns what `sink_conformance` and the tests of the egress room share.

- Everything runs on an embedded log in a folder of the test, or on the log that is given; a child process can open it.
- Conditions are polled with a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import open_key_codec
from headrace.contracts.registry import Registry
from headrace.contracts.registry_store import StoredRegistry
from headrace.egress.config import EgressConfig
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import Connector
from headrace.egress.tasks import EgressTasks
from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher, RecordMetadata
from headrace.ingress.encoder import Entry, now_ms
from headrace.ingress.environment import GivenEnvironment
from headrace.log.columns import Record, batch_records, binary_column, outgoing
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Log, Outgoing, TopicPartition, TopicSpec
from headrace.log.schema_topic import SchemaTopic

WORKSPACE = "stage"
TOPIC = "orders"
PARTITIONS = 3
SESSION_TIMEOUT_MS = 1_000
"""Of the embedded log: a killed process is found out soon."""
DEADLINE_S = 30.0

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "customer", "type": "string"},
        {"name": "amount", "type": ["null", "double"], "default": None},
    ],
}


def order_contract(kind: TopicKind = TopicKind.TABLE, schema: Mapping[str, Any] = ORDER) -> Contract:
    """The contract of the stage's topic."""
    return Contract(TOPIC, AvroSchema.parse(dict(schema)), kind=kind, key=("id",))


def order(number: int, amount: float | None = None) -> dict[str, Any]:
    """One row."""
    return {"id": number, "customer": f"customer {number % 7}", "amount": float(number) if amount is None else amount}


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition`; fails the test after the deadline."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.01)


class Stage:
    """One test's world."""

    def __init__(
        self, folder: Path, contract: Contract, *, partitions: int = PARTITIONS, log: Log | None = None
    ) -> None:
        """`log`: another than the embedded one; it is closed with the stage."""
        self.log_path = folder / "log.db"
        self.log: Log = log or EmbeddedLog(self.log_path, session_timeout_ms=SESSION_TIMEOUT_MS)
        self.registry: Registry = StoredRegistry(SchemaTopic(self.log))
        self.contract, self.partitions = contract, partitions
        admin = self.log.admin()
        try:
            admin.create_topics([TopicSpec(contract.topic, partitions)])
        finally:
            admin.close()

    def close(self) -> None:
        self.registry.close()
        self.log.close()

    def publish(self, rows: Sequence[Mapping[str, Any]], *, contract: Contract | None = None) -> None:
        """Write rows; all must fit the contract."""
        topic = self.contract.topic
        self._deliver([Entry(topic, row, now_ms()) for row in rows], contract or self.contract)

    def delete(self, keys: Sequence[Mapping[str, Any]]) -> None:
        """Write tombstones."""
        self._deliver([Entry(self.contract.topic, key, now_ms(), is_deletion=True) for key in keys], self.contract)

    def publish_changes(
        self,
        changes: Sequence[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]],
        *,
        positions: Sequence[int] = (),
    ) -> None:
        """Write envelopes: operation, row before, row after. A deletion is followed by its tombstone. `positions` are
        the changes' places in the log of the database."""
        keyed = [after if after is not None else before for _, before, after in changes]
        keys = self.keys([row for row in keyed if row is not None])
        values: list[bytes | None] = []
        written: list[bytes | None] = []
        encoded = self.envelopes(changes, positions)
        for (operation, _, _), key, value in zip(changes, keys, encoded, strict=True):
            values += [value, None] if operation == "d" else [value]
            written += [key, key] if operation == "d" else [key]
        self.produce_raw(values, written)

    def publish_truncate(self, position: int) -> None:
        """Write that the source table was emptied, in every partition as headrace's own capture does."""
        values = self.envelopes([("t", None, None)] * self.partitions, [position] * self.partitions)
        producer = self.log.producer()
        try:
            places = np.arange(self.partitions, dtype=np.int32)
            producer.produce(Outgoing(self.contract.topic, binary_column(values), partition=places))
            producer.flush()
        finally:
            producer.close()

    def envelopes(
        self,
        changes: Sequence[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]],
        positions: Sequence[int] = (),
    ) -> list[bytes | None]:
        """Encoded envelopes."""
        codec = open_codec(self.contract.value_schema, self.registry, f"{self.contract.topic}-value")
        source = {"version": "1", "connector": "postgresql", "name": "test", "ts_ms": 1, "snapshot": "false"}
        source |= {"db": "test", "table": "orders"}
        placed: Sequence[int | None] = positions or [None] * len(changes)
        rows = [
            {"before": before, "after": after, "op": operation, "source": {**source, "lsn": position}}
            for (operation, before, after), position in zip(changes, placed, strict=True)
        ]
        encoded = codec.encode(pa.Table.from_pylist(rows, schema=codec.arrow_schema))
        assert not encoded.failed, encoded.failed
        values: list[bytes | None] = encoded.values.to_pylist()
        return values

    def keys(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """Encoded keys of rows."""
        codec = open_key_codec(self.contract, self.registry)
        columns = {name: [row[name] for row in rows] for name in self.contract.key}
        keys: list[bytes | None] = codec.encode(
            pa.table({name: pa.array(values, codec.arrow_schema.field(name).type) for name, values in columns.items()})
        ).values.to_pylist()
        return keys

    def produce_raw(self, values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None) -> None:
        """Write these bytes."""
        producer = self.log.producer()
        try:
            producer.produce(outgoing(self.contract.topic, values, keys=keys))
            producer.flush()
        finally:
            producer.close()

    def runner(self, connector: Connector, config: EgressConfig, contract: Contract | None = None) -> EgressRunner:
        return EgressRunner(config, connector, contract or self.contract, self.log, self.registry, WORKSPACE)

    def deliver(self, connector: Connector, config: EgressConfig, contract: Contract | None = None) -> EgressRunner:
        """Run an egress until everything that is in the topic now is delivered, then stop it."""
        runner, ends = self.runner(connector, config, contract), self.ends()
        with self.running(runner) as thread:
            wait_until(lambda: is_at(runner, ends) or not thread.is_alive(), "everything delivered")
        return runner

    def tasks(
        self, connector: Callable[[], Connector], config: EgressConfig, *, paused: threading.Event | None = None
    ) -> EgressTasks:
        """The egress with as many tasks as its file says."""
        return EgressTasks(config, connector, self.contract, self.log, self.registry, WORKSPACE, paused=paused)

    @contextmanager
    def running(self, runner: EgressRunner | EgressTasks) -> Iterator[threading.Thread]:
        """Run an egress in a thread; stops it at the end and raises what it raised."""
        stop = threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            try:
                runner.run(stop)
            except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
                raised.append(error)

        thread = threading.Thread(target=run, name=f"egress-{runner.config.name}")
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join(DEADLINE_S)
        if raised:
            raise raised[0]
        assert not thread.is_alive(), "the egress does not stop"

    def is_delivered(self, runner: EgressRunner | EgressTasks) -> bool:
        """Whether the runner's positions are the ends of all partitions."""
        return is_at(runner, self.ends())

    def ends(self) -> dict[int, int]:
        """End offset of each partition."""
        admin = self.log.admin()
        try:
            partitions = [TopicPartition(self.contract.topic, number) for number in range(self.partitions)]
            return {each.partition: end for each, end in admin.end_offsets(partitions).items()}
        finally:
            admin.close()

    def forget_offsets(self, config: EgressConfig) -> None:
        """Delete what the group committed: everything is delivered again."""
        admin = self.log.admin()
        try:
            admin.delete_group(config.group(WORKSPACE))
        finally:
            admin.close()

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, by partition and offset."""
        admin, consumer = self.log.admin(), self.log.consumer()
        try:
            description = admin.topics().get(topic)
            if description is None:
                return []
            partitions = [TopicPartition(topic, number) for number in range(description.partitions)]
            ends = {each: end for each, end in admin.end_offsets(partitions).items() if end > 0}
            consumer.assign(dict.fromkeys(ends, -2))
            found: list[Record] = []
            # Not by their number: transactions leave gaps in the offsets.
            while any(position < ends[each] for each, position in consumer.position(list(ends)).items()):
                found += [record for batch in consumer.poll(10_000, 1.0) for record in batch_records(batch)]
            return sorted(found, key=lambda record: (record.partition, record.offset))
        finally:
            consumer.close()
            admin.close()

    def decoded(self, topic: str, schema: AvroSchema) -> list[dict[str, Any]]:
        """The values of a topic's records, tombstones left out, by partition and offset."""
        codec = open_codec(schema, self.registry, f"{topic}-value")
        decoded = codec.decode(binary_column([record.value for record in self.records(topic)]))
        assert not decoded.failed, decoded.failed
        rows: list[dict[str, Any]] = decoded.table.to_pylist()
        return rows

    def _deliver(self, entries: Sequence[Entry], contract: Contract) -> None:
        environment = GivenEnvironment(self.log, self.registry, {contract.topic: contract})
        with BatchPublisher(environment) as publisher:
            for outcome in publisher.deliver(entries):
                if isinstance(outcome, HeadraceError):
                    raise outcome
                assert isinstance(outcome, RecordMetadata)


def is_at(runner: EgressRunner | EgressTasks, ends: Mapping[int, int]) -> bool:
    """Whether a running egress has delivered up to these offsets."""
    status = runner.status()
    return status.state == "running" and all(status.positions.get(each, 0) >= end for each, end in ends.items())


def header(record: Record, name: str) -> str | None:
    """A header's text; the last of that name."""
    found = [value for key, value in record.headers if key == name and value is not None]
    return found[-1].decode() if found else None
