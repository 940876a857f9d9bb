"""Stream-stream joins and waiting table joins as whole pipelines, against SQL over the same rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from headrace.testing import Driver
from tests.engine.harness import Harness

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}


def contract(topic: str, fields: dict[str, Any], **rest: Any) -> Contract:
    record = {"type": "record", "name": "Row", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    return Contract(topic=topic, schema=AvroSchema.parse(record), **rest)


ORDERS = contract(
    "orders", {"order_id": "string", "cents": "long", "placed_at": TIMESTAMP}, key=("order_id",), time="placed_at"
)
PAYMENTS = contract(
    "payments",
    {"payment_id": "long", "order_id": ["null", "string"], "paid_at": TIMESTAMP},
    key=("payment_id",),
    time="paid_at",
)
RATES = contract(
    "rates",
    {"currency": "string", "rate": "long", "at": TIMESTAMP},
    kind=TopicKind.TABLE,
    key=("currency",),
    time="at",
)
SALES = contract(
    "sales", {"sale": "long", "currency": "string", "at": TIMESTAMP}, key=("sale",), time="at", partitions=4
)
FAR = timedelta(days=1)


def orders(count: int) -> list[dict[str, Any]]:
    """Orders with some disorder, all within grace, and at the end one per partition far ahead."""
    generator = random.Random(7)
    return [
        {
            "order_id": f"o{generator.randrange(count // 2)}",
            "cents": n,
            "placed_at": BEGIN + timedelta(seconds=n + generator.randrange(20)),
        }
        for n in range(count)
    ]


def payments(count: int) -> list[dict[str, Any]]:
    generator = random.Random(8)
    return [
        {
            "payment_id": n,
            "order_id": None if n % 50 == 0 else f"o{generator.randrange(count // 2)}",
            "paid_at": BEGIN + timedelta(seconds=n + generator.randrange(20)),
        }
        for n in range(count)
    ]


def ends(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows that let time pass in every partition."""
    late = [{"order_id": f"end{n}", "cents": -1, "placed_at": BEGIN + FAR} for n in range(count)]
    paid = [{"payment_id": -n, "order_id": f"paid{n}", "paid_at": BEGIN + FAR} for n in range(count)]
    return late, paid


@pytest.mark.parametrize("how", ["inner", "left", "outer"])
def test_joins_of_two_streams_equal_sql_through_restarts(
    how: Literal["inner", "left", "outer"], tmp_path: Path
) -> None:
    """Payments move to the orders; three workers follow each other; each pair and each row alone comes once."""

    @hr.pipeline(owner="test")
    def paid() -> Any:
        """Orders with payments near them."""
        return (
            hr.stream("orders")
            .join(hr.stream("payments"), on="order_id", how=how, before="30s", after="60s", grace="10m")
            .to("paid")
        )

    known = {each.topic: each for each in (ORDERS, PAYMENTS)}
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        at_work = Harness(log, MemoryRegistry(), list(known.values()), compile_pipeline(paid, known), partitions=3)
        lefts, rights = orders(600), payments(600)
        for piece in range(3):
            rows = slice(piece * 200, piece * 200 + 200)
            at_work.publish("orders", lefts[rows])
            at_work.publish("payments", rights[rows])
            at_work.run_until_caught_up()
        end_orders, end_payments = ends(60)
        at_work.publish("orders", end_orders)
        at_work.publish("payments", end_payments)
        wanted = by_sql(how, lefts, rights)
        at_work.run_until_caught_up(and_then=lambda: len(real(at_work)) >= len(wanted))
        found = real(at_work)
    assert sorted(found, key=repr) == sorted(wanted, key=repr)


def real(at_work: Harness) -> list[tuple[Any, ...]]:
    """Results without those of the rows that let time pass."""
    rows = [tuple(row.values()) for row in at_work.rows("paid")]
    return [row for row in rows if row[2] != BEGIN + FAR and row[4] != BEGIN + FAR]


def by_sql(how: str, lefts: Sequence[dict[str, Any]], rights: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The batch answer."""
    zone = pl.col(pl.Datetime).dt.replace_time_zone(None)
    left, right = (pl.DataFrame(rows).with_columns(zone) for rows in (lefts, rights))
    kind = {"inner": "inner", "left": "left", "outer": "full outer"}[how]
    with duckdb.connect() as connection:
        connection.register("l", left)
        connection.register("r", right)
        found = connection.sql(
            f"""
            select coalesce(l.order_id, r.order_id), l.cents, l.placed_at, r.payment_id, r.paid_at
            from l {kind} join r on l.order_id = r.order_id
            and r.paid_at between l.placed_at - interval 30 second and l.placed_at + interval 60 second
            """
        ).pl()
    return found.with_columns(pl.col(pl.Datetime).dt.replace_time_zone("UTC")).rows()


@hr.pipeline(owner="test")
def converted() -> Any:
    """Sales with the rate of their time, once rates had a minute to come."""
    return (
        hr.stream("sales")
        .join(hr.table("rates", history="1d"), on="currency", how="left", as_of=True, grace="60s")
        .to("converted")
    )


def test_a_waiting_table_join_sees_late_rates_through_a_restart(tmp_path: Path) -> None:
    """Sales wait in the changelog over a restart; rates that come meanwhile are seen; the last ones wait on."""
    known = {each.topic: each for each in (SALES, RATES)}
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        at_work = Harness(log, MemoryRegistry(), list(known.values()), compile_pipeline(converted, known), partitions=1)

        def rate(value: int, at: int) -> dict[str, Any]:
            return {"currency": "EUR", "rate": value, "at": BEGIN + timedelta(seconds=at)}

        def sale(number: int, at: int) -> dict[str, Any]:
            return {"sale": number, "currency": "EUR", "at": BEGIN + timedelta(seconds=at)}

        at_work.publish("rates", [rate(1, 0), rate(9, 200)])
        at_work.publish("sales", [sale(n, 10 * n) for n in range(10)])
        at_work.run_until_caught_up()
        assert [row["sale"] for row in at_work.rows("converted")] == [0, 1, 2, 3]
        at_work.publish("rates", [rate(2, 55)])
        at_work.run_until_caught_up()
        at_work.publish("sales", [sale(10, 149)])
        at_work.run_until_caught_up(and_then=lambda: len(at_work.rows("converted")) >= 9)
        rows = at_work.rows("converted")
    assert [(row["sale"], row["rate"]) for row in rows] == [
        (0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2), (8, 2),
    ]  # fmt: skip


EVENTS = {
    side: contract(side, {"k": "string", "n": "long", "at": TIMESTAMP}, key=("k",), time="at", partitions=2)
    for side in ("left", "right")
}
ROWS = st.lists(
    st.tuples(st.sampled_from(["left", "right"]), st.sampled_from("abc"), st.integers(-9, 12)), min_size=1, max_size=14
)


def some_rows(steps: list[tuple[str, str, int]]) -> list[tuple[str, dict[str, Any]]]:
    """Rows whose time goes forward, with some disorder, and one far ahead on each side."""
    rows, now_ms = [], 100
    for number, (side, key, step_ms) in enumerate(steps):
        now_ms = max(0, now_ms + step_ms)
        rows.append((side, {"k": key, "n": number, "at": BEGIN + timedelta(milliseconds=now_ms)}))
    return [*rows, *((side, {"k": "z", "n": -1, "at": BEGIN + FAR}) for side in ("left", "right"))]


@hr.pipeline(owner="test")
def counted() -> Any:
    """A window over a left join of a left join, final."""
    left, right = hr.stream("left"), hr.stream("right")
    once = left.join(right, on="k", how="left", within="10ms", grace="5ms").select("k", "n", "n_right")
    twice = once.join(right, on="k", how="left", within="10ms", grace="5ms", suffix="_twice")
    return (
        twice.group_by("k")
        .window(hr.tumbling("20ms", grace="5ms"))
        .agg(rows=hr.count(), pairs=hr.count("n_right"), more=hr.count("n_twice"))
        .to("counted", emit="final")
    )


@settings(max_examples=15, deadline=None)
@given(steps=ROWS, sizes=st.lists(st.integers(1, 5), max_size=6), partitions=st.sampled_from([1, 2]))
def test_windows_behind_chained_joins_do_not_depend_on_batches(
    steps: list[tuple[str, str, int]], sizes: list[int], partitions: int
) -> None:
    """Delays are told on: what waits for partners is never late for the steps behind, however the input is cut."""
    rows = some_rows(steps)
    found = []
    for batches in ([1] * len(rows), cut(sizes, len(rows))):
        with Driver(counted, contracts=EVENTS, partitions=partitions) as driver:
            driver.publish_many([(topic, row, None) for topic, row in rows], batches=batches)
            kept = [row for row in driver.rows("counted") if row["k"] != "z"]
            found.append((sorted(kept, key=repr), driver.dropped))
    assert found[0] == found[1]
    assert not any(step.startswith("aggregate") for step, _ in found[0][1]), (
        "late for the join is not late for a window"
    )


def cut(sizes: list[int], count: int) -> list[int]:
    """Batch sizes that add up."""
    made: list[int] = []
    for size in [*sizes, count]:
        made.append(min(size, count - sum(made)))
    return [size for size in made if size]


@hr.pipeline(owner="test")
def impatient() -> Any:
    """An outer join that closes idle partitions."""
    return (
        hr.stream("left")
        .join(hr.stream("right"), on="k", how="outer", within="10s", idle_close="30s")
        .named("impatient")
        .to("joined")
    )


def test_idle_partitions_let_their_rows_out() -> None:
    """By the clock, once, and for good: also for a worker that starts anew."""
    with Driver(impatient, contracts=EVENTS) as driver:
        driver.publish("left", {"k": "a", "n": 1, "at": BEGIN})
        driver.publish("right", {"k": "b", "n": 2, "at": BEGIN})
        driver.advance("29s")
        assert driver.rows("joined") == []
        driver.advance("5s")
        assert sorted((row["k"], row["n"], row["n_right"]) for row in driver.rows("joined")) == [
            ("a", 1, None),
            ("b", None, 2),
        ]
        driver.restart()
        driver.publish("right", {"k": "a", "n": 3, "at": BEGIN})
        driver.advance("60s")
        assert len(driver.rows("joined")) == 2
        assert driver.dropped == {("impatient", "late"): 1}


def test_late_rows_can_be_kept() -> None:
    """As dead letters with their records."""

    @hr.pipeline(owner="test")
    def pipeline() -> Any:
        """Late rows are kept."""
        return hr.stream("left").join(hr.stream("right"), on="k", within="1s", late="dead_letter").to("joined")

    with Driver(pipeline, contracts=EVENTS) as driver:
        driver.publish("left", [{"k": "a", "n": n, "at": BEGIN + timedelta(seconds=at)} for n, at in ((1, 10), (2, 0))])
        (letter,) = driver.dead_letters()
        assert (letter.code, letter.topic, letter.offset) == ("process.late", "left", 1)
