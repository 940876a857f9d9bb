"""The worker on the embedded log: whole pipelines, cut anywhere, stopped anywhere."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from tests.engine.harness import Harness, raw

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)

ORDERS = Contract(
    topic="orders",
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Order",
            "fields": [
                {"name": "order_id", "type": "string"},
                {"name": "customer", "type": "string"},
                {"name": "amount", "type": "long"},
                {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            ],
        }
    ),
    key=("order_id",),
    time="placed_at",
)
CUSTOMERS = Contract(
    topic="customers",
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Customer",
            "fields": [{"name": "customer", "type": "string"}, {"name": "country", "type": ["null", "string"]}],
        }
    ),
    kind=TopicKind.TABLE,
    key=("customer",),
)


def orders(count: int, *, seed: int = 1, customers: int = 20) -> list[dict[str, Any]]:
    """Orders over a few hours, out of order by up to ten minutes."""
    generator = random.Random(seed)
    return [
        {
            "order_id": f"o{n}",
            "customer": f"c{generator.randrange(customers)}",
            "amount": generator.randrange(100),
            "placed_at": BEGIN + timedelta(seconds=n * 3 + generator.randrange(600)),
        }
        for n in range(count)
    ]


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "log.db")


def harness(log: EmbeddedLog, pipeline: Any, *contracts: Contract, partitions: int = 4) -> Harness:
    known = {contract.topic: contract for contract in contracts or (ORDERS, CUSTOMERS)}
    compiled = compile_pipeline(pipeline, known)
    return Harness(log, MemoryRegistry(), list(known.values()), compiled, partitions=partitions)


@hr.pipeline(owner="test")
def large_orders() -> Any:
    """Orders above fifty, in cents."""
    return hr.stream("orders").filter(col("amount") > 50).select("order_id", cents=col("amount") * 100).to("large")


@hr.pipeline(owner="test")
def hourly() -> Any:
    """Hourly sums by customer."""
    return (
        hr.stream("orders")
        .group_by("customer")
        .window(hr.tumbling("1h", grace="20m", idle_close="1s"))
        .agg(orders=hr.count(), total=hr.sum("amount"), mean=hr.mean("amount"), median=hr.quantile("amount", 0.5))
        .to("hourly", emit="final")
    )


@hr.pipeline(owner="test")
def by_country() -> Any:
    """Running totals by the customer's country."""
    return (
        hr.stream("orders")
        .join(hr.table("customers"), on="customer", how="left")
        .group_by("country")
        .agg(total=hr.sum("amount"), orders=hr.count())
        .to("by_country")
    )


def hourly_answer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The batch answer."""
    frame = pl.DataFrame(rows).with_columns(pl.col("placed_at").cast(pl.Datetime("ms", "UTC")))
    grouped = frame.group_by("customer", pl.col("placed_at").dt.truncate("1h").alias("window_start")).agg(
        orders=pl.len().cast(pl.Int64),
        total=pl.col("amount").sum(),
        mean=pl.col("amount").mean(),
        median=pl.col("amount").quantile(0.5, "linear"),
    )
    ended = grouped.with_columns((pl.col("window_start") + pl.duration(hours=1)).alias("window_end"))
    return canonical(ended.to_dicts())


def canonical(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ordered = [dict(sorted(row.items())) for row in rows]
    return sorted(ordered, key=repr)


def test_a_row_wise_pipeline_passes_every_row_once(log: EmbeddedLog) -> None:
    """Filter and projection over four partitions equal the plain answer."""
    run = harness(log, large_orders)
    rows = orders(5000)
    run.publish("orders", rows)
    run.run_until_caught_up()
    expected = [{"order_id": row["order_id"], "cents": row["amount"] * 100} for row in rows if row["amount"] > 50]
    assert canonical(run.rows("large")) == canonical(expected)


@pytest.mark.parametrize(("batch_records_max", "count"), [(1, 300), (7, 2000), (1000, 6000), (100_000, 6000)])
def test_windows_do_not_depend_on_batch_size(log: EmbeddedLog, batch_records_max: int, count: int) -> None:
    """Final windows through a repartition topic equal the batch answer, each once, at any batch size."""
    run = harness(log, hourly)
    rows = orders(count)
    run.publish("orders", rows)
    expected = hourly_answer(rows)
    run.run_until_caught_up(
        batch_records_max=batch_records_max, and_then=lambda: len(run.records("hourly")) >= len(expected)
    )
    assert canonical(run.rows("hourly")) == expected


def test_rows_that_wait_for_a_table_keep_windows_open(log: EmbeddedLog) -> None:
    """Rows read but held back by a table with a long way to go: nobody downstream takes the silence for the end."""
    versions = Contract(
        topic="versions",
        schema=AvroSchema.parse(
            {
                "type": "record",
                "name": "Version",
                "fields": [
                    {"name": "customer", "type": "string"},
                    {"name": "country", "type": "string"},
                    {"name": "valid_from", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                ],
            }
        ),
        kind=TopicKind.TABLE,
        key=("customer",),
        time="valid_from",
    )

    @hr.pipeline(owner="test")
    def hourly_by_country() -> Any:
        return (
            hr.stream("orders")
            .join(hr.table("versions"), on="customer", how="left")
            .group_by("country")
            .window(hr.tumbling("1h", grace="20m", idle_close="100ms"))
            .agg(orders=hr.count())
            .to("hourly", emit="final")
        )

    run = harness(log, hourly_by_country, ORDERS, versions)
    # One window. Orders of c0 wait until 900 older changes of c0 are read; those of the others, elsewhere, do not.
    rows = [
        {"order_id": f"o{n}", "customer": f"c{n % 6}", "amount": n, "placed_at": BEGIN + timedelta(seconds=n)}
        for n in range(48)
    ]
    changes = [
        {"customer": "c0", "country": "x", "valid_from": BEGIN + timedelta(seconds=n - 3600)} for n in range(900)
    ]
    first = {"order_id": "first", "customer": "c0", "amount": 0, "placed_at": BEGIN - timedelta(days=1)}
    with run.running(batch_records_max=1, idle_after_ms=20) as running:
        before = BEGIN - timedelta(days=2)
        run.publish("versions", [{"customer": f"c{n}", "country": "x", "valid_from": before} for n in range(6)])
        run.publish("orders", [first])
        # Its window closes for want of input: from here on everybody is known to be idle.
        run.wait(running, lambda: len(run.records("hourly")) == 1)
        run.publish("versions", changes)
        run.publish("orders", rows)
        run.wait(running, lambda: run.caught_up() and len(run.records("hourly")) >= 2)
        assert running.worker.status().dropped == {}
    assert sorted(row["orders"] for row in run.rows("hourly")) == [1, 48]


def test_input_after_a_pause_is_not_late(log: EmbeddedLog) -> None:
    """Idle partitions get a backlog and one worker is slow to tell: the other closes no window over its rows."""
    run = harness(log, hourly)
    first = [{**row, "placed_at": BEGIN - timedelta(days=1)} for row in orders(40, customers=1)]
    rows = [{**row, "placed_at": BEGIN + timedelta(minutes=n)} for n, row in enumerate(orders(3000))]
    expected = hourly_answer([*first, *rows])
    quick, slow = {"commit_interval_ms": 20}, {"commit_interval_ms": 1_000}
    with (
        run.running("quick", idle_after_ms=1_500, **quick) as one,
        run.running("slow", idle_after_ms=1_500, **slow) as two,
    ):
        run.wait(two, lambda: bool(two.worker.status().tasks) and bool(one.worker.status().tasks))
        run.publish("orders", first)
        # Its window closes for want of input, so everybody is known to be idle.
        run.wait(one, lambda: len(run.records("hourly")) == 1)
        run.publish("orders", rows)
        run.wait(one, lambda: run.caught_up() and len(run.records("hourly")) >= len(expected))
        assert one.worker.status().dropped == {}
        assert two.worker.status().dropped == {}
    assert canonical(run.rows("hourly")) == expected


def test_a_stopped_worker_goes_on_where_it_was(log: EmbeddedLog) -> None:
    """Stops between and within windows lose and repeat nothing."""
    run = harness(log, hourly)
    rows = orders(6000)
    for start in range(0, len(rows), 1500):
        run.publish("orders", rows[start : start + 1500])
        run.run_until_caught_up(instance=f"worker-{start}", idle_after_ms=60_000)
    expected = hourly_answer(rows)
    run.run_until_caught_up(and_then=lambda: len(run.records("hourly")) >= len(expected))
    assert canonical(run.rows("hourly")) == expected


def test_two_workers_share_the_partitions(log: EmbeddedLog) -> None:
    """A second worker takes over part of the tasks, and leaves again, without a trace in the answer."""
    run = harness(log, hourly)
    rows = orders(6000)
    expected = hourly_answer(rows)
    run.publish("orders", rows[:2000])
    with run.running("one") as first:
        run.wait(first, run.caught_up)
        with run.running("two") as second:
            run.publish("orders", rows[2000:4000])
            run.wait(second, lambda: bool(second.worker.status().tasks) and run.caught_up())
        run.publish("orders", rows[4000:])
        run.wait(first, lambda: run.caught_up() and len(run.records("hourly")) >= len(expected))
    assert canonical(run.rows("hourly")) == expected


def test_a_joined_total_equals_the_batch_answer(log: EmbeddedLog) -> None:
    """Latest rows of a table that was there before the stream; unknown customers count under null."""
    run = harness(log, by_country)
    table = [{"customer": f"c{n}", "country": f"country {n % 3}" if n % 5 else None} for n in range(15)]
    run.publish("customers", table)
    rows = orders(4000)
    run.publish("orders", rows)
    run.run_until_caught_up()
    countries = {row["customer"]: row["country"] for row in table}
    totals: Counter[str | None] = Counter()
    counts: Counter[str | None] = Counter()
    for row in rows:
        totals[countries.get(row["customer"])] += row["amount"]
        counts[countries.get(row["customer"])] += 1
    found = {row["country"]: row for row in run.rows("by_country")}
    # All group columns null is a null key: dropped, counted and dead-lettered.
    known = {country for country in totals if country is not None}
    assert {country: (row["total"], row["orders"]) for country, row in found.items()} == {
        country: (totals[country], counts[country]) for country in known
    }


def test_bad_records_become_dead_letters_with_their_bytes(log: EmbeddedLog) -> None:
    """Undecodable bytes, an unknown schema id, a null value and an absurd time: each alone, the rest goes on."""
    run = harness(log, large_orders, partitions=1)
    good = orders(10)
    run.publish("orders", good)
    absurd = {**good[0], "placed_at": datetime(2200, 1, 1, tzinfo=UTC)}
    run.publish("orders", [absurd])
    bad = [b"\x00\x00\x00\x00\x01\xff", b"\x00\x00\x00\xff\xffxx", b"not avro", None]
    run.produce(raw("orders", bad))
    run.run_until_caught_up()
    letters = run.records("large_orders.dlq")
    headers = [{key: (value or b"").decode() for key, value in letter.headers} for letter in letters]
    codes = Counter(each["headrace.error.code"] for each in headers)
    assert codes["decode.unknown_schema_id"] == 1
    assert codes["decode.absurd_event_time"] == 1
    assert codes["decode.null_value"] == 1
    assert sum(codes.values()) == 5
    assert {each["headrace.error.stage"] for each in headers} == {"decode"}
    assert {letter.value for letter in letters} >= {value for value in bad if value is not None}
    assert len(run.rows("large")) == sum(row["amount"] > 50 for row in good)


def test_a_failing_row_function_costs_its_row_only(log: EmbeddedLog) -> None:
    """The dead letter holds the source record as it was, also behind a repartition topic."""

    @hr.pipeline(owner="test")
    def picky() -> Any:
        """Refuses one order."""
        return (
            hr.stream("orders")
            .rekey("customer")
            .map(refuse, schema={"order_id": "string", "twice": "long"})
            .to("picked")
        )

    def refuse(row: dict[str, Any]) -> dict[str, Any]:
        if row["order_id"] == "o7":
            raise ValueError("seven is refused")
        return {"order_id": row["order_id"], "twice": row["amount"] * 2}

    run = harness(log, picky)
    rows = orders(50)
    run.publish("orders", rows)
    run.run_until_caught_up()
    (letter,) = run.records("picky.dlq")
    original = next(record for record in run.records("orders") if record.value == letter.value)
    assert letter.key == original.key
    texts = {key: (value or b"").decode() for key, value in letter.headers}
    assert texts["headrace.error.offset"] == str(original.offset)
    assert "seven is refused" in texts["headrace.error.message"]
    assert len(run.rows("picked")) == 49


def test_coroutines_keep_the_order_of_rows(log: EmbeddedLog) -> None:
    """Calls that end in any order give rows in input order; failures are retried, then dead-lettered."""
    tries: Counter[str] = Counter()

    async def look_up(row: dict[str, Any]) -> dict[str, Any]:
        tries[row["order_id"]] += 1
        await asyncio.sleep(random.random() / 100)
        if row["order_id"] == "o3" or (row["order_id"] == "o5" and tries["o5"] == 1):
            raise RuntimeError("not now")
        return {"order_id": row["order_id"]}

    @hr.pipeline(owner="test")
    def looked_up() -> Any:
        """Asks a service."""
        return (
            hr.stream("orders")
            .map_async(look_up, schema={"order_id": "string"}, concurrency=10, timeout="5s", retries=1)
            .to("looked_up")
        )

    run = harness(log, looked_up, partitions=1)
    rows = orders(100)
    run.publish("orders", rows)
    run.run_until_caught_up()
    assert [row["order_id"] for row in run.rows("looked_up")] == [f"o{n}" for n in range(100) if n != 3]
    assert len(run.records("looked_up.dlq")) == 1
    assert tries["o3"] == tries["o5"] == 2


# Asking


@hr.pipeline(owner="test")
def by_order() -> Any:
    """A key for each order."""
    return hr.stream("orders").group_by("order_id").agg(count=hr.count()).to("counts")


def test_another_thread_may_ask_how_it_is_while_state_changes(log: EmbeddedLog) -> None:
    """The compiled index of keys lets nobody in while it takes rows in."""
    run = harness(log, by_order, partitions=1)
    run.publish("orders", orders(5_000))
    asked = 0
    with run.running(batch_records_max=100) as running:
        while running.thread.is_alive() and not (asked % 100 == 0 and run.caught_up()):
            assert running.worker.status().state_keys <= 5_000
            asked += 1
    assert asked > 100
    assert running.worker.status().records_in == 5_000
