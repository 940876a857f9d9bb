"""Tables as streams, streams as tables, tables of tables: whole pipelines, in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.engine.operators.duality import AsTable, Changes
from headrace.flow.pipeline import Pipeline
from headrace.flow.steps import AsTableStep, ChangesStep
from headrace.testing import Driver
from tests.engine.operators.aggregate_driver import Context
from tests.engine.operators.table_life import column

FIELDS = {
    "order_id": "string",
    "shop": ["null", "string"],
    "amount": ["null", "long"],
    "state": ["null", "string"],
    "at": {"type": "long", "logicalType": "timestamp-millis"},
}


def contract(topic: str, kind: TopicKind) -> Contract:
    """Orders, as events, as a table or as changes of a database's table."""
    record = {"type": "record", "name": "Row", "fields": [{"name": n, "type": t} for n, t in FIELDS.items()]}
    return Contract(topic=topic, schema=AvroSchema.parse(record), kind=kind, key=("order_id",), time="at")


EVENTS = contract("events", TopicKind.EVENT)
ORDERS = contract("orders", TopicKind.TABLE)
CHANGES = contract("changes", TopicKind.CHANGE)
CONTRACTS = [EVENTS, ORDERS, CHANGES]


def order(
    order_id: str, shop: str | None, amount: int | None, at_ms: int = 0, state: str | None = None
) -> dict[str, Any]:
    """A row."""
    return {"order_id": order_id, "shop": shop, "amount": amount, "state": state, "at": at_ms}


def drive(pipeline: Pipeline, partitions: int = 2) -> Driver:
    """The pipeline at work."""
    return Driver(pipeline, contracts=CONTRACTS, partitions=partitions)


# The operators alone


def test_changes_leave_deletions_out_or_mark_them() -> None:
    """Order, key and system columns stay."""
    columns = (column("name", pl.String()), column("size", pl.Int64()))
    frame = pl.DataFrame(
        {
            "name": ["a", "b", "a"],
            "size": [1, None, 2],
            PARTITION: pl.Series([0, 0, 0], dtype=pl.Int32),
            TIME: [5, 6, 7],
            STREAM_TIME: [5, 6, 7],
            SEQUENCE: [0, 1, 2],
            SOURCE: pl.Series(SOURCE, [None] * 3, SYSTEM_COLUMNS[SOURCE]),
            DELETED: [False, True, False],
        }
    )
    plain = Changes(ChangesStep(name="c", columns=columns)).process([frame], Context())
    assert plain.columns == ["name", "size", *SYSTEM_COLUMNS]
    assert plain.select("name", "size", TIME, SEQUENCE).rows() == [("a", 1, 5, 0), ("a", 2, 7, 2)]
    marked_columns = (*columns, column("gone", pl.Boolean()))
    marked = Changes(ChangesStep(name="c", columns=marked_columns, deleted="gone")).process([frame], Context())
    assert marked.select("name", "size", "gone").rows() == [("a", 1, False), ("b", None, True), ("a", 2, False)]


def test_rows_without_a_key_are_counted_and_kept_as_dead_letters() -> None:
    """A table needs a key; half a key is one."""
    columns = tuple(column(name, pl.String()) for name in ("left", "right", "text"))
    step = AsTableStep(name="t", columns=columns, key=("left", "right"), is_table=True)
    frame = pl.DataFrame(
        {
            "left": ["a", None, None],
            "right": [None, None, "b"],
            "text": ["x", "y", "z"],
            **{name: pl.Series(name, [None] * 3, dtype) for name, dtype in SYSTEM_COLUMNS.items()},
        }
    )
    context = Context()
    made = AsTable(step).process([frame], context)
    assert made["text"].to_list() == ["x", "z"]
    assert context.dropped == {"null_key": 1}
    assert [row["text"] for row, _ in context.dead] == ["y"]


# Pipelines


@hr.pipeline(name="shops")
def shops() -> Any:
    """The latest state of each order by its events, and what shops have open, twice grouped."""
    events = hr.stream("events")
    orders = events.as_table("order_id", deleted=col("state") == "CANCELLED").named("orders")
    by_shop = orders.group_by("shop").agg(orders=hr.count(), amount=hr.sum("amount"), most=hr.max("amount"))
    by_orders = by_shop.group_by("orders").agg(shops=hr.count(), amount=hr.sum("amount"))
    return by_shop.to("by_shop"), by_orders.to("by_orders"), orders.changes(deleted="gone").to("seen")


ROWS = st.lists(
    st.builds(
        order,
        st.sampled_from(["o1", "o2", "o3", "o4"]),
        st.sampled_from([None, "Rome", "Oslo"]),
        st.none() | st.integers(-5, 5),
        st.integers(0, 100),
        st.sampled_from([None, "PAID", "CANCELLED"]),
    ),
    max_size=12,
)
ACTIONS = st.sampled_from(["", "", "restart", "abort"])


def recount(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[int, Any]]:
    """Both tables from all events, at once."""
    orders: dict[str, dict[str, Any]] = {}
    for row in rows:
        orders.pop(row["order_id"], None)
        if row["state"] != "CANCELLED":
            orders[row["order_id"]] = row
    grouped: dict[str, list[int | None]] = defaultdict(list)
    for row in orders.values():
        if row["shop"] is not None:
            grouped[row["shop"]].append(row["amount"])
    by_shop = {}
    for shop, amounts in grouped.items():
        known = [amount for amount in amounts if amount is not None]
        total, most = (sum(known), max(known)) if known else (None, None)
        by_shop[shop] = {"shop": shop, "orders": len(amounts), "amount": total, "most": most}
    by_orders: dict[int, Any] = {}
    for found in by_shop.values():
        made = by_orders.setdefault(found["orders"], {"orders": found["orders"], "shops": 0, "amount": None})
        made["shops"] += 1
        if found["amount"] is not None:
            made["amount"] = (made["amount"] or 0) + found["amount"]
    return by_shop, by_orders


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches=st.lists(st.tuples(ROWS, ACTIONS), min_size=1, max_size=5), partitions=st.sampled_from([1, 3]))
def test_tables_of_tables_are_a_recount_of_the_events(batches: Any, partitions: int) -> None:
    """For any batches, aborted transactions and restarts, over several partitions."""
    seen: list[dict[str, Any]] = []
    with drive(shops, partitions) as driver:
        for rows, action in batches:
            if action == "abort":
                driver.abort_next()
            driver.publish("events", rows)
            seen.extend(rows)
            if action == "restart":
                driver.restart()
            by_shop, by_orders = recount(seen)
            assert driver.table("by_shop") == by_shop
            assert driver.table("by_orders") == by_orders
        told = Counter(row["order_id"] for row in driver.rows("seen"))
        assert told == Counter(row["order_id"] for row in seen)


def test_deletions_in_changes_have_key_and_mark() -> None:
    """And the event time of the row that deleted, as the record's."""
    with drive(shops) as driver:
        driver.publish("events", [order("o1", "Rome", 3, 10), order("o1", "Rome", 3, 20, "CANCELLED")])
        records = driver.records("seen")
        assert [(record.row["gone"], record.row["shop"]) for record in records if record.row] == [
            (False, "Rome"),
            (True, None),
        ]
        assert driver.dead_letters() == []


@hr.pipeline(name="open_orders")
def open_orders() -> Any:
    """Orders of a database by shop."""
    orders = hr.table("changes")
    return orders.group_by("shop").agg(orders=hr.collect("order_id"), amount=hr.sum("amount")).to("open")


def test_a_table_of_a_database_through_retraction() -> None:
    """Inserts, updates, moves, deletes with their tombstones, and a key that changes (deleted, and made anew)."""
    with drive(open_orders) as driver:

        def found() -> dict[str, Any]:
            return {shop: (row["orders"], row["amount"]) for shop, row in driver.table("open").items()}

        driver.publish("changes", [order("o1", "Rome", 1), order("o2", "Rome", 2), order("o3", "Oslo", 3)])
        assert {shop: (sorted(ids), total) for shop, (ids, total) in found().items()} == {
            "Rome": (["o1", "o2"], 3),
            "Oslo": (["o3"], 3),
        }
        driver.publish("changes", order("o1", "Rome", 10))
        assert found()["Rome"][1] == 12
        driver.publish("changes", order("o2", "Oslo", 20))
        assert found() == {"Rome": (["o1"], 10), "Oslo": (["o3", "o2"], 23)}
        driver.delete("changes", {"order_id": "o3"})
        assert found() == {"Rome": (["o1"], 10), "Oslo": (["o2"], 20)}
        with driver.batch():
            driver.delete("changes", {"order_id": "o1"})
            driver.publish("changes", order("o9", "Rome", 11))
        assert found() == {"Rome": (["o9"], 11), "Oslo": (["o2"], 20)}
        driver.restart()
        driver.delete("changes", {"order_id": "o2"})
        assert found() == {"Rome": (["o9"], 11)}
        assert driver.dead_letters() == []


def test_a_tombstone_behind_a_delete_changes_nothing() -> None:
    """Debezium writes one after each delete; and a delete of a key that is not there is none."""
    with drive(open_orders, partitions=1) as driver:
        driver.publish("changes", order("o1", "Rome", 1))
        key = _keys_of(driver, "changes")[0]
        driver.delete("changes", {"order_id": "o1"})
        said = len(driver.records("open"))
        driver.publish_bytes("changes", key, None)
        assert len(driver.records("open")) == said == 2
        assert driver.records("open")[-1].is_tombstone
        assert driver.dead_letters() == []


def _keys_of(driver: Driver, topic: str) -> list[bytes]:
    return [key for batch, _ in driver._log.labelled(topic) for key in batch.key.to_pylist()]


@hr.pipeline(name="young")
def young() -> Any:
    """Orders that changed in the last ten seconds, and how many there are by shop."""
    orders = hr.table("orders", ttl="10s")
    return (
        orders.select("order_id", "amount").to("young"),
        orders.group_by("shop").agg(orders=hr.count(), keep_empty=True).to("young_by_shop"),
    )


def test_expired_rows_are_taken_back_below() -> None:
    """A deletion by time is a deletion."""
    with drive(young, partitions=1) as driver:
        driver.publish("orders", [order("o1", "Rome", 1, 0), order("o2", "Rome", 2, 5_000)])
        assert set(driver.table("young")) == {"o1", "o2"}
        driver.publish("orders", order("o3", "Oslo", 3, 10_001))
        assert set(driver.table("young")) == {"o2", "o3"}
        driver.restart()
        driver.publish("orders", order("o3", "Oslo", 4, 15_001))
        assert set(driver.table("young")) == {"o3"}
        assert {shop: row["orders"] for shop, row in driver.table("young_by_shop").items()} == {"Rome": 0, "Oslo": 1}
        assert len(driver.state("expire_order_id", "keys")) == 1


@hr.pipeline(name="versions")
def versions() -> Any:
    """The newest amounts by event time."""
    return hr.table("orders", history="1h").group_by("shop").agg(amount=hr.sum("amount")).to("amounts")


def test_a_table_with_history_goes_by_event_time() -> None:
    """An older version is left out, and counted."""
    with drive(versions) as driver:
        driver.publish("orders", [order("o1", "Rome", 5, 2_000), order("o1", "Oslo", 7, 1_000)])
        assert driver.table("amounts") == {"Rome": {"shop": "Rome", "amount": 5}}
        assert driver.dropped == {("retract_shop", "out_of_order"): 1}


class Names(hr.Aggregator):
    """Ids, joined; refuses one."""

    type = "string"

    def init(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        if value == "bad":
            raise ValueError("bad order")
        return [*state, value]

    def merge(self, left: Any, right: Any) -> Any:
        return left + right

    def subtract(self, state: Any, value: Any) -> Any:
        state.remove(value)
        return state

    def result(self, state: Any) -> Any:
        return "+".join(state)


@hr.pipeline(name="names")
def names() -> Any:
    """A user's aggregate over a table."""
    return hr.table("orders").group_by("shop").agg(ids=Names("order_id"), n=hr.count()).to("names")


def test_a_users_aggregate_takes_rows_back() -> None:
    """A row that it refuses is a dead letter, and does not count, neither then nor when it goes."""
    with drive(names) as driver:
        driver.publish("orders", [order("o1", "Rome", 1), order("bad", "Rome", 1), order("o2", "Rome", 1)])
        assert driver.table("names") == {"Rome": {"shop": "Rome", "ids": "o1+o2", "n": 2}}
        (letter,) = driver.dead_letters()
        assert letter.code == "process.function_raised"
        driver.restart()
        driver.publish("orders", order("bad", "Oslo", 1))
        driver.delete("orders", {"order_id": "o1"})
        assert driver.table("names") == {"Rome": {"shop": "Rome", "ids": "o2", "n": 1}}
        assert len(driver.dead_letters()) == 2


@pytest.mark.parametrize("together", [True, False])
def test_a_sum_out_of_range_is_told(together: bool) -> None:
    """The row is written with null; the dead letter says why; and it comes right by itself."""
    most = 2**63 - 1
    with drive(versions) as driver:
        rows = [order("o1", "Rome", most, 1), order("o2", "Rome", most, 2)]
        for batch in [rows] if together else [[row] for row in rows]:
            driver.publish("orders", batch)
        assert driver.table("amounts")["Rome"]["amount"] is None
        assert {letter.code for letter in driver.dead_letters()} == {"process.overflow"}
        driver.delete("orders", {"order_id": "o1"}, time=3)
        assert driver.table("amounts")["Rome"]["amount"] == most
