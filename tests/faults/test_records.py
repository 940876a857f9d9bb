"""Records that are wrong, too large or of another time, with the registry away: each becomes a dead letter, alone."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.sink_writer import SinkWriter
from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.log.columns import outgoing
from headrace.testing.registry_service import RegistryService
from headrace.testing.server_process import free_ports
from headrace.workspace.environment import Environment
from headrace.workspace.status import ComponentState
from tests.engine.harness import TopicFrame, wait_until
from tests.faults.letters import letters
from tests.faults.scene import Scene, open_scene

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.xdist_group("faults-records"),
    pytest.mark.timeout(400),
]

UNKNOWN_ID = b"\x00\x7f\xff\xff\xff"
FAR = datetime(2500, 1, 1, tzinfo=UTC)
BATCH_ROWS = 10_000
OUTPUT_BYTES_MAX = 2_000
LETTER_BYTES_MAX = 20_000
"""`max.message.bytes` of topics that are to be too small."""


def publish(environment: Environment, topic: str, rows: list[dict[str, Any]]) -> None:
    """Rows that the broker has taken."""
    with BatchPublisher(environment, name="more") as publisher:
        refused = [each for each in publisher.publish(topic, rows) if isinstance(each, HeadraceError)]
    assert not refused, refused


def next_orders(scene: Scene, count: int) -> list[dict[str, Any]]:
    """Of the scene's own rows, the load at rest: later than everything before, and not published yet."""
    scene.load.pause()
    chunk = scene.load.rows.chunk(count)
    publish(scene.environment, scene.names.topic("customers"), chunk["customers"])
    return [row | {"note": "fine"} for row in chunk["orders"]]


def send(scene: Scene, values: list[bytes]) -> None:
    """Values as they are, to the topic of orders."""
    with closing(scene.environment.log.producer()) as producer:
        producer.produce(outgoing(scene.names.topic("orders"), values, keys=[b"k%d" % n for n in range(len(values))]))
        producer.flush()


def send_unchecked(scene: Scene, order: dict[str, Any]) -> None:
    """An order as a careless producer writes it: headrace's own publishers refuse an absurd event time."""
    contract = scene.environment.contracts[scene.names.topic("orders")]
    encoded, errors = SinkWriter(contract, scene.environment.registry).encode(TopicFrame(contract).frame([order]))
    assert not errors, errors
    with closing(scene.environment.log.producer()) as producer:
        producer.produce(encoded)
        producer.flush()


class Registry:
    """The scene's registry over HTTP, which comes and goes."""

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self._service: RegistryService | None = None

    def come(self, environment: Environment) -> None:
        self._service = RegistryService(environment.registry, port=self._port).start()

    def go(self) -> None:
        if self._service is not None:
            self._service.close()
            self._service = None


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry()
    yield registry
    registry.go()


def test_bad_bytes_while_the_registry_is_away(kafka_bootstrap: str, tmp_path: Path, registry: Registry) -> None:
    """What is no record, what names an unknown schema, and what lies centuries ahead: the worker waits for the
    registry only where it must ask, says so, and then gives each to the dead letters with its bytes."""
    config = f'registry = "{registry.url}"'
    with open_scene(tmp_path / "scene", kafka_bootstrap, workers=0, worker_config=config) as scene:
        registry.come(scene.environment)
        scene.start(2)
        send(scene, [b"\xffno record", b"", b"\x00\x00"])
        scene.settle()
        assert [each.about["code"] for each in letters(scene) if each.about["stage"] == "decode"] == [
            "decode.framing"
        ] * 3
        registry.go()
        send(scene, [UNKNOWN_ID + b"bytes of a stranger"])

        def waits() -> bool:
            return any(
                each.state is ComponentState.WAITING and "registry" in str(each.error) for each in scene.statuses()
            )

        wait_until(waits, "a worker that waits for the registry")
        assert not any(each.about["code"] == "decode.unknown_schema_id" for each in letters(scene))
        registry.come(scene.environment)
        (order,) = next_orders(scene, 1)
        send_unchecked(scene, order | {"placed_at": FAR})
        scene.settle()
        codes = [each.about["code"] for each in letters(scene) if each.about["stage"] == "decode"]
        assert sorted(codes) == ["decode.absurd_event_time", *["decode.framing"] * 3, "decode.unknown_schema_id"]
        scene.finish()


def test_one_failing_row_among_ten_thousand(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Published before a worker starts, read in one batch: that row alone is a dead letter, the others come out."""
    with open_scene(tmp_path / "scene", kafka_bootstrap, workers=0, history_rows=0, partitions=1, rate=10) as scene:
        orders = next_orders(scene, BATCH_ROWS)
        orders[BATCH_ROWS // 2]["note"] = "bad"
        publish(scene.environment, scene.names.topic("orders"), orders)
        scene.start(1)
        scene.settle()
        bad = orders[BATCH_ROWS // 2]["order_id"].encode()
        found = [each.about for each in letters(scene) if bad in (each.value or b"")]
        assert [(about["stage"], about["code"]) for about in found] == [("process", "process.function_raised")]
        scene.finish()


def test_records_too_large_for_their_topics(kafka_bootstrap: str, tmp_path: Path) -> None:
    """A result above its topic's limit becomes a dead letter of stage encode; a letter above its own topic's limit
    leaves a note that says where its original is. All others come out."""
    with open_scene(tmp_path / "scene", kafka_bootstrap, workers=0, history_rows=200, rate=20) as scene:
        names = scene.names
        admin = scene.environment.log.admin()
        for topic in (names.topic("orders.large"), names.topic("orders.priced")):
            admin.alter_config(topic, {"max.message.bytes": str(OUTPUT_BYTES_MAX)})
        scene.start(1)
        # Not before: a setting that `apply` would change back keeps `run` from starting.
        admin.alter_config(names.dead_letters, {"max.message.bytes": str(LETTER_BYTES_MAX)})
        large, larger = next_orders(scene, 2)
        large |= {"order_id": secrets.token_hex(OUTPUT_BYTES_MAX), "amount": 900}
        larger |= {"order_id": secrets.token_hex(LETTER_BYTES_MAX), "amount": 900}
        publish(scene.environment, names.topic("orders"), [large])

        def encoded() -> list[dict[str, str]]:
            return [each.about for each in letters(scene) if each.about["stage"] == "encode"]

        wait_until(lambda: len(encoded()) == 2, "two dead letters of stage encode")
        assert {about["code"] for about in encoded()} == {"encode.record_too_large"}
        publish(scene.environment, names.topic("orders"), [larger])
        wait_until(lambda: len(encoded()) == 4, "two notes")
        notes = [each for each in letters(scene) if each.about.get("original") == "false"]
        assert len(notes) == 2
        for note in notes:
            assert "max.message.bytes" in json.loads(note.value or b"")["left_out"]
            assert note.about["topic"] == names.topic("orders")
        admin.close()
        scene.load.pause()
        wait_until(lambda: not scene.lag(), "the end of the input")
        verdict = scene.verdict()
        assert all(each.startswith("dead letters") for each in verdict.wrong), verdict
        assert all("missing 2 rows" in each for each in verdict.missing), verdict
        for fleet in list(scene.fleets):
            assert scene.stop(fleet) == 0
