"""The built-in registry on a log: the registry's suite, and several processes at once."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import RegistryError, RegistryUnavailable
from headrace.contracts.registry_store import RegistryStoreInvalid, StoredRegistry
from headrace.log.embedded import EmbeddedLog
from headrace.log.kafka import KafkaLog
from headrace.log.port import LogUnavailable, TopicSpec
from headrace.log.schema_topic import SCHEMA_TOPIC, SchemaTopic
from headrace.testing.registry_conformance import RegistryConformance


class TestSchemaTopicOnTheEmbeddedLog(RegistryConformance):
    """All of the registry's suite on the embedded log."""

    @pytest.fixture
    def registry(self, tmp_path: Path) -> Iterator[StoredRegistry]:
        with closing(EmbeddedLog(tmp_path / "log.db")) as log, closing(StoredRegistry(SchemaTopic(log))) as registry:
            yield registry


@pytest.mark.kafka
class TestSchemaTopicOnKafka(RegistryConformance):
    """All of the registry's suite on a broker, each test with a topic of its own."""

    @pytest.fixture
    def registry(self, kafka_log: KafkaLog) -> Iterator[StoredRegistry]:
        topic = f"schemas-{uuid.uuid4().hex[:12]}"
        with closing(StoredRegistry(SchemaTopic(kafka_log, topic=topic))) as registry:
            yield registry
        with closing(kafka_log.admin()) as admin:
            if topic in admin.topics():
                admin.delete_topics([topic])


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        yield log


def schema(number: int) -> AvroSchema:
    """Different, yet compatible schemas."""
    return AvroSchema.parse({"type": "record", "name": "R", "doc": str(number), "fields": []})


def test_reading_makes_no_topic(log: EmbeddedLog) -> None:
    """`headrace plan` looks at the registry and must change nothing."""
    with closing(StoredRegistry(SchemaTopic(log))) as registry, closing(log.admin()) as admin:
        assert registry.latest("a-value") is None
        assert SCHEMA_TOPIC not in admin.topics()
        registry.register("a-value", schema(1))
        made = admin.topics()[SCHEMA_TOPIC]
    assert (made.partitions, made.config["cleanup.policy"]) == (1, "compact")


def test_schemas_outlive_the_process(tmp_path: Path) -> None:
    """A log opened anew has them all."""
    for number in range(3):
        with closing(EmbeddedLog(tmp_path / "log.db")) as log, closing(StoredRegistry(SchemaTopic(log))) as registry:
            registry.register("a-value", schema(number))
            assert [each.schema for each in registry.versions("a-value")] == [schema(n) for n in range(number + 1)]


@pytest.mark.parametrize(
    "spec",
    [
        TopicSpec(SCHEMA_TOPIC, partitions=2, config={"cleanup.policy": "compact"}),
        TopicSpec(SCHEMA_TOPIC, partitions=1, config={"cleanup.policy": "delete"}),
    ],
)
def test_a_topic_that_would_lose_schemas_is_refused(log: EmbeddedLog, spec: TopicSpec) -> None:
    """Two partitions have no order, and deletion by age would take schemas that records still need."""
    with closing(log.admin()) as admin:
        admin.create_topics([spec])
    with closing(StoredRegistry(SchemaTopic(log))) as registry, pytest.raises(RegistryStoreInvalid, match="_schemas"):
        registry.register("a-value", schema(1))


def test_a_log_that_cannot_be_reached_is_the_registrys_trouble(log: EmbeddedLog) -> None:
    """Catchers know `RegistryUnavailable` and try again; afterwards everything works."""
    topic = SchemaTopic(log)
    with closing(StoredRegistry(topic)) as registry:
        original, calls = log.consumer, []

        def unreachable(**options: str) -> None:
            calls.append(options)
            raise LogUnavailable("the log does not answer")

        log.consumer = unreachable  # type: ignore[method-assign,assignment]
        with pytest.raises(RegistryUnavailable, match="_schemas"):
            registry.subjects()
        log.consumer = original  # type: ignore[method-assign]
        assert calls
        assert registry.register("a-value", schema(1)).version == 1


def test_a_closed_registry_says_so(log: EmbeddedLog) -> None:
    """Not with an error of threads or sockets; closing twice is fine."""
    registry = StoredRegistry(SchemaTopic(log))
    registry.close()
    registry.close()
    with pytest.raises(RegistryError, match="closed"):
        registry.subjects()


PROCESSES = 3
SCHEMAS_EACH = 15


# Half of the schemas are shared by all processes, half are the process's own.
REGISTER_MANY = f"""
import sys
from contextlib import closing
from pathlib import Path
from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry_store import StoredRegistry
from headrace.log.embedded import EmbeddedLog
from headrace.log.schema_topic import SchemaTopic

worker = int(sys.argv[2])
with closing(EmbeddedLog(Path(sys.argv[1]))) as log, closing(StoredRegistry(SchemaTopic(log))) as registry:
    for number in range({SCHEMAS_EACH}):
        doc = str(number if number % 2 else 1000 * (worker + 1) + number)
        registry.register("a-value", AvroSchema.parse({{"type": "record", "name": "R", "doc": doc, "fields": []}}))
"""


def test_processes_register_at_the_same_time(tmp_path: Path) -> None:
    """Each schema ends with one version and one id, without gaps, and every process sees the same."""
    path = tmp_path / "log.db"
    workers = [
        subprocess.Popen([sys.executable, "-c", REGISTER_MANY, str(path), str(worker)]) for worker in range(PROCESSES)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * PROCESSES
    with closing(EmbeddedLog(path)) as log, closing(StoredRegistry(SchemaTopic(log))) as registry:
        versions = registry.versions("a-value")
    shared, own = SCHEMAS_EACH // 2, PROCESSES * (SCHEMAS_EACH - SCHEMAS_EACH // 2)
    assert len(versions) == shared + own == len({each.schema for each in versions})
    assert [each.version for each in versions] == list(range(1, len(versions) + 1))
    assert sorted(each.id for each in versions) == list(range(1, len(versions) + 1))
