"""Broadcast tables in a worker: read whole before the first row, followed afterwards, whatever the partitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.compile import compile_pipeline
from headrace.flow.errors import StepRefused
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Log
from tests.engine.harness import Harness, raw


def contract(topic: str, fields: dict[str, Any], **rest: Any) -> Contract:
    record = {"type": "record", "name": "Row", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    return Contract(topic=topic, schema=AvroSchema.parse(record), **rest)


TRIPS = contract("trips", {"id": "long", "zone": ["null", "string"]}, key=("id",))
ZONES = contract("zones", {"zone": "string", "name": ["null", "string"]}, kind=TopicKind.TABLE, key=("zone",))


def named_trips(how: str) -> Any:
    @hr.pipeline(owner="test")
    def named() -> Any:
        zones = hr.broadcast("zones").filter(hr.col("name") != "closed").rename({"name": "zone_name"})
        return hr.stream("trips").join(zones, on="zone", how=how).to("trips.named")

    return compile_pipeline(named, {"trips": TRIPS, "zones": ZONES})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(EmbeddedLog(tmp_path / "log.db")) as opened:
        yield opened


def trips(first: int, count: int) -> list[dict[str, Any]]:
    zones = ["a", "b", "c", None]
    return [{"id": n, "zone": zones[n % 4]} for n in range(first, first + count)]


def zones(*pairs: tuple[str, str | None]) -> list[dict[str, Any]]:
    return [{"zone": zone, "name": name} for zone, name in pairs]


def found(harness: Harness) -> dict[int, str | None]:
    return {row["id"]: row["zone_name"] for row in harness.rows("trips.named")}


def test_the_table_is_whole_before_the_first_row(log: Log) -> None:
    """Every trip finds its zone though the stream's topic is not partitioned by zone, and nothing is moved."""
    harness = Harness(log, MemoryRegistry(), [TRIPS, ZONES], named_trips("left"), partitions=3)
    assert not [s for s in harness.compiled.plan.steps if s.kind == "repartition"]
    harness.publish("trips", trips(0, 40))
    harness.publish("zones", zones(("a", "Airport"), ("b", "closed"), ("a", "Airfield")))
    harness.run_until_caught_up()
    names = {"a": "Airfield", "b": None, "c": None, None: None}
    assert found(harness) == {row["id"]: names[row["zone"]] for row in trips(0, 40)}


def test_later_rows_of_the_table_are_taken_in(log: Log) -> None:
    """Changes and deletions of the table count for the trips that come after them."""
    harness = Harness(log, MemoryRegistry(), [TRIPS, ZONES], named_trips("inner"), partitions=2)
    harness.publish("zones", zones(("a", "Airport"), ("b", "Beach")))
    with harness.running() as running:
        harness.publish("trips", trips(0, 8))
        harness.wait(running, harness.caught_up)
        key = next(record.key for record in harness.records("zones") if b"a" in (record.key or b"")[5:])
        harness.produce(raw("zones", [None], [key]))
        harness.publish("zones", zones(("c", "Castle")))
        # The table is read between polls; a few of them pass before these trips come.
        probe = iter(range(100, 10_000, 4))

        def is_known() -> bool:
            harness.publish("trips", trips(next(probe), 4))
            return "Castle" in found(harness).values()

        harness.wait(running, is_known)
        harness.publish("trips", trips(20_000, 4))
        harness.wait(running, harness.caught_up)
    rows = found(harness)
    assert {rows.get(n) for n in (0, 1, 2)} == {"Airport", "Beach", None}
    assert [rows.get(n) for n in range(20_000, 20_004)] == [None, "Beach", "Castle", None]
    assert running.worker.status().dropped["join_zones:null_key"] > 0


def test_a_restart_reads_the_table_again(log: Log) -> None:
    """No position is kept for it."""
    registry = MemoryRegistry()
    harness = Harness(log, registry, [TRIPS, ZONES], named_trips("inner"), partitions=2)
    harness.publish("zones", zones(("a", "Airport")))
    harness.publish("trips", trips(0, 4))
    harness.run_until_caught_up()
    harness.publish("trips", trips(4, 4))
    harness.run_until_caught_up()
    assert found(harness) == {0: "Airport", 4: "Airport"}


def test_undecodable_rows_of_the_table_are_counted(log: Log) -> None:
    """They stay in their topic and stop nobody."""
    harness = Harness(log, MemoryRegistry(), [TRIPS, ZONES], named_trips("inner"), partitions=2)
    harness.publish("zones", zones(("a", "Airport")))
    harness.produce(raw("zones", [b"nonsense"], [b"x"]))
    harness.publish("trips", trips(0, 4))
    worker = harness.run_until_caught_up()
    assert found(harness) == {0: "Airport"}
    assert sum(n for name, n in worker.status().dropped.items() if name.startswith("broadcast zones")) == 1


def test_a_broadcast_table_cannot_be_written() -> None:
    """Each process would write all of it."""

    @hr.pipeline(owner="test")
    def copied() -> Any:
        return hr.broadcast("zones").filter(hr.col("name") != "x").to("elsewhere")

    with pytest.raises(StepRefused, match="every process has all of it"):
        compile_pipeline(copied, {"zones": ZONES})
