"""Processors, dedupe, top_n and map_async in whole pipelines on the embedded log: cut anywhere, stopped anywhere."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from tests.engine.harness import Harness
from tests.engine.test_bad_input import EVENTS

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "log.db")


def harness(log: EmbeddedLog, pipeline: Any, *, partitions: int = 4) -> Harness:
    """The pipeline on this log."""
    compiled = compile_pipeline(hr.pipeline(owner="test", name="p")(pipeline), {"events": EVENTS})
    return Harness(log, MemoryRegistry(), [EVENTS], compiled, partitions=partitions)


def events(count: int) -> list[dict[str, Any]]:
    """Events of twenty names, every fifth of them twice, a second apart."""
    return [
        {
            "id": f"e{n if n % 5 else n // 10}",
            "name": f"n{n * 3 % 20}",
            "number": n * 7919 % 1000,
            "note": None,
            "at": BEGIN + timedelta(seconds=n),
        }
        for n in range(count)
    ]


class Counting(hr.Processor):
    """Counts rows by name, and tells the count at the end of the day."""

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
        context.state = (context.state or 0) + 1
        context.at(BEGIN + timedelta(days=1), "day")
        return None

    def on_timer(self, context: hr.ProcessorContext) -> Any:
        return {"name": context.key["name"], "rows": context.state}


@pytest.mark.parametrize("batch_records_max", [7, 10_000])
def test_three_keyed_steps_in_a_row_equal_the_plain_answer(batch_records_max: int, log: EmbeddedLog) -> None:
    """Rows move by id, then by name; workers are stopped in the middle and go on; nothing is lost or counted twice."""

    def pipeline() -> Any:
        once = hr.stream("events").dedupe("id", within="30d").named("once")
        return [
            once.process(Counting(), by="name", schema={"name": "string", "rows": "long"}).to("counts"),
            once.group_by("name").top_n(3, by=["number", "id"]).to("tops"),
        ]

    run = harness(log, pipeline)
    rows = events(600)
    for start in range(0, 600, 200):
        run.publish("events", rows[start : start + 200])
        run.run_until_caught_up(batch_records_max=batch_records_max)
    # A day later in every partition: all timers fire.
    late = [{**rows[0], "id": f"x{n}", "name": "later", "at": BEGIN + timedelta(days=2)} for n in range(40)]
    run.publish("events", late)

    def told() -> list[dict[str, Any]]:
        return [row for row in run.rows("counts") if row["name"] != "later"]

    seen: dict[str, dict[str, Any]] = {}
    for row in rows:
        seen.setdefault(row["id"], row)
    counts = Counter(row["name"] for row in seen.values())
    worker = run.run_until_caught_up(and_then=lambda: len(told()) >= len(counts))
    assert {row["name"]: row["rows"] for row in told()} == dict(counts)
    assert len(told()) == len(counts)
    tops: dict[tuple[str, int], tuple[int, str]] = {}
    for row in run.rows("tops"):
        tops[row["name"], row["rank"]] = (row["number"], row["id"])
    wanted = {}
    for name in counts:
        mine = sorted(((row["number"], row["id"]) for row in seen.values() if row["name"] == name), reverse=True)
        wanted |= {(name, rank): each for rank, each in enumerate(mine[:3], 1)}
    assert {key: value for key, value in tops.items() if key[0] != "later"} == wanted
    assert worker.status().state == "stopped"


class Reminder(hr.Processor):
    """Says something a while after a row, whatever else happens."""

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
        context.state = row["id"]
        context.after("1s")
        return None

    def on_timer(self, context: hr.ProcessorContext) -> Any:
        said, context.state = context.state, None
        return {"id": said}


def test_timers_of_the_clock_fire_without_rows_and_across_workers(log: EmbeddedLog) -> None:
    """The first worker ends before they are due; the second one fires each once, with nothing to read."""
    run = harness(log, lambda: hr.stream("events").process(Reminder(), by="id", schema={"id": "string"}).to("said"))
    run.publish("events", [row for row in events(20) if row["number"] % 2])
    ids = {row["id"] for row in events(20) if row["number"] % 2}
    run.run_until_caught_up()
    assert not run.rows("said")
    with run.running("two") as running:
        run.wait(running, lambda: len(run.rows("said")) >= len(ids))
    assert sorted(row["id"] for row in run.rows("said")) == sorted(ids)
    run.run_until_caught_up()
    assert len(run.rows("said")) == len(ids)


def test_calls_of_one_key_follow_each_other_through_aborts(log: EmbeddedLog) -> None:
    """Transactions are aborted while coroutines run: no two of a key overlap, and the output is as if none had been."""
    running: Counter[str] = Counter()
    overlaps = calls = 0

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        nonlocal overlaps, calls
        calls += 1
        overlaps += running[row["name"]] > 0
        running[row["name"]] += 1
        try:
            await asyncio.sleep(0.002)
        finally:
            running[row["name"]] -= 1
        return {"name": row["name"], "number": row["number"]}

    def pipeline() -> Any:
        return (
            hr.stream("events")
            .map_async(call, schema={"name": "string", "number": "long"}, concurrency=8, one_at_a_time_by="name")
            .to("out")
        )

    run = harness(log, pipeline, partitions=1)
    rows = events(300)
    with run.running(batch_records_max=40) as at_work:
        for start in range(0, 300, 100):
            begun = calls
            run.publish("events", rows[start : start + 100])
            run.wait(at_work, lambda begun=begun: calls > begun)  # type: ignore[misc]
            # Another producer of the same id fences the worker's: its transaction is refused.
            log.producer(transactional_id="test.p.one").close()
        run.wait(at_work, run.caught_up)
        aborts = at_work.worker.status().aborts
    assert aborts >= 1
    assert overlaps == 0
    assert [(row["name"], row["number"]) for row in run.rows("out")] == [(row["name"], row["number"]) for row in rows]
