"""State from its changelog when a worker starts: whole, in pieces, damaged, of another step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine import changelog
from headrace.engine.changelog import ChangelogUnreadable
from headrace.engine.state_restore import StateMeansAnother
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Log
from tests.engine.harness import Harness, raw

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
CALLS = Contract(
    topic="calls",
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Call",
            "fields": [
                {"name": "caller", "type": "string"},
                {"name": "seconds", "type": "double"},
                {"name": "began_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            ],
        }
    ),
    key=("caller",),
    time="began_at",
)


def calls(first: int, count: int) -> list[dict[str, Any]]:
    """Calls of ten callers, one a second."""
    return [
        {"caller": f"c{n % 10}", "seconds": n / 7, "began_at": BEGIN + timedelta(seconds=n)}
        for n in range(first, first + count)
    ]


def pipeline(**aggregates: Any) -> Any:
    """A table by caller, always of the same name."""

    @hr.pipeline(owner="test")
    def by_caller() -> Any:
        grouped = hr.stream("calls").group_by("caller")
        return grouped.agg(**aggregates).to("calls.by_caller")

    return compile_pipeline(by_caller, {"calls": CALLS})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(EmbeddedLog(tmp_path / "log.db")) as opened:
        yield opened


@pytest.fixture
def registry() -> Registry:
    return MemoryRegistry()


def harness(log: Log, registry: Registry) -> Harness:
    compiled = pipeline(calls=hr.count(), seconds=hr.sum("seconds"), all=hr.collect("seconds"))
    return Harness(log, registry, [CALLS], compiled, partitions=2)


def only_changelog(at_work: Harness) -> str:
    (topic,) = {topic for topic in at_work.log.admin().topics(internal=True) if topic.endswith(".changelog")}
    return topic


def test_state_in_many_messages_comes_back(log: Log, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change larger than a message is cut, written in one transaction, and put together at the next start."""
    monkeypatch.setattr(changelog, "encode", functools.partial(changelog.encode, bytes_max=300))
    at_work = harness(log, registry)
    at_work.publish("calls", calls(0, 500))
    at_work.run_until_caught_up()
    values = [record.value for record in at_work.records(only_changelog(at_work))]
    assert len(values) > 10
    assert max(len(value or b"") for value in values) <= 300
    at_work.publish("calls", calls(500, 10))
    worker = at_work.run_until_caught_up(instance="two")
    assert worker.status().records_restored == len(values)
    latest = {row["caller"]: row for row in at_work.rows("calls.by_caller")}
    assert [latest[f"c{n}"]["calls"] for n in range(10)] == [51] * 10
    assert latest["c3"]["all"] == [n / 7 for n in range(3, 510, 10)]


@pytest.mark.parametrize("value", [b"", None, b"somebody else's bytes", changelog.MAGIC + b"0123456789ab"])
def test_damage_stops_the_worker_and_says_where(log: Log, registry: Registry, value: bytes | None) -> None:
    """Topic, partition and offset; no result is computed from half a state."""
    at_work = harness(log, registry)
    at_work.publish("calls", calls(0, 5))
    at_work.run_until_caught_up()
    topic = only_changelog(at_work)
    end = sum(record.partition == 0 for record in at_work.records(topic))
    at_work.produce(raw(topic, [value]))
    before = at_work.rows("calls.by_caller")
    at_work.publish("calls", calls(5, 5))
    with pytest.raises(ChangelogUnreadable, match=rf"{topic}\[0\] at offset \d+: ") as caught:
        at_work.run_until_caught_up(instance="two")
    assert int(str(caught.value).split("offset ")[1].split(":")[0]) >= end
    assert "headrace reset" in caught.value.cure
    assert at_work.rows("calls.by_caller") == before


def test_a_changed_aggregate_does_not_take_the_old_state(log: Log, registry: Registry) -> None:
    """Another argument, another aggregate: told by step, instead of a wrong sum."""
    at_work = harness(log, registry)
    at_work.publish("calls", calls(0, 5))
    at_work.run_until_caught_up()
    at_work.compiled = pipeline(calls=hr.count(), seconds=hr.sum(hr.col("seconds") * 2), all=hr.collect("seconds"))
    at_work.publish("calls", calls(5, 5))
    with pytest.raises(StateMeansAnother, match="another form of step 'aggregate_caller'"):
        at_work.run_until_caught_up(instance="two")
    at_work.compiled = pipeline(calls=hr.count(), seconds=hr.sum("seconds"), all=hr.collect("seconds"))
    at_work.run_until_caught_up(instance="three")
    assert sum({row["caller"]: row["calls"] for row in at_work.rows("calls.by_caller")}.values()) == 10
