"""Joins of two streams, and joins with a table that wait: columns, facts, placement, fingerprints."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.contracts.contract import KeyEncoding
from headrace.errors import HeadraceError
from headrace.flow.errors import PartitionMismatch
from headrace.flow.explain import explain
from headrace.flow.internal_topics import plan_partitions
from headrace.flow.plan import Plan
from headrace.flow.values import SourceField
from tests.flow.samples import TIMESTAMP, contract, kinds, only, output, plan_of, types

PAYMENTS = contract(
    "payments",
    {
        "payment_id": "string",
        "order_id": ["null", "string"],
        "amount": "double",
        "customer_id": "long",
        "paid_at": TIMESTAMP,
    },
    key=("payment_id",),
    time="paid_at",
    tags={"customer_id": ("pii", "billing")},
)
RETURNS = contract("returns", {"order_id": "string", "reason": "string", "at": TIMESTAMP}, key=("order_id",), time="at")
ALARMS = contract(
    "alarms",
    {"sensor": "string", "level": "int", "at": TIMESTAMP},
    key=("sensor",),
    key_encoding=KeyEncoding.STRING,
    time="at",
    partitions=4,
)


def joined(**options: Any) -> Plan:
    """Orders with their payments."""
    options = {"within": "5m", **options}
    return plan_of(
        lambda: (
            hr.stream("orders")
            .select("order_id", "customer_id", "amount", "placed_at")
            .join(hr.stream("payments"), on="order_id", **options)
            .to("paid")
        ),
        PAYMENTS,
    )


@pytest.mark.parametrize(
    ("options", "before_ms", "after_ms"),
    [
        ({"within": "5m"}, 300_000, 300_000),
        ({"within": None, "before": "1m"}, 60_000, 0),
        ({"within": None, "before": "1m", "after": "2s"}, 60_000, 2_000),
    ],
)
def test_the_window_is_within_or_before_and_after(options: dict[str, Any], before_ms: int, after_ms: int) -> None:
    """What is not said of a side is nothing."""
    step = only(joined(**options), "stream_join")
    assert (step.before_ms, step.after_ms, step.grace_ms) == (before_ms, after_ms, 0)


def test_options_are_in_the_step() -> None:
    """Grace, late rows, idle closing and waiting."""
    step = only(joined(grace="10s", late="dead_letter", idle_close="30s", max_wait="2s", how="left"), "stream_join")
    assert (step.grace_ms, step.late, step.idle_close_ms, step.max_wait_ms) == (10_000, "dead_letter", 30_000, 2_000)
    assert step.on == (("order_id", "order_id"),)
    assert step.how == "left"


def test_columns_of_a_side_that_may_be_missing_are_nullable() -> None:
    """Clashing right columns get the suffix; the columns of the join stand once."""
    inner, left, outer = (types(only(joined(how=how), "stream_join")) for how in ("inner", "left", "outer"))
    names = ["order_id", "customer_id", "amount", "placed_at"]
    names += ["payment_id", "amount_right", "customer_id_right", "paid_at"]
    assert list(inner) == list(left) == list(outer) == names
    assert inner["payment_id"] == "string"
    assert inner["customer_id"] == left["customer_id"] == "long"
    assert left["payment_id"] == outer["payment_id"] == ["null", "string"]
    assert outer["customer_id"] == ["null", "long"]
    assert (left["order_id"], outer["order_id"]) == ("string", ["null", "string"]), "a payment may have none"


def test_outer_join_columns_come_from_both_sides() -> None:
    """Lineage and tags of the columns of the join."""
    plan = plan_of(
        lambda: hr.stream("orders").join(hr.stream("payments"), on="customer_id", how="outer", within="1m").to("out"),
        PAYMENTS,
    )
    (column,) = [each for each in only(plan, "stream_join").columns if each.name == "customer_id"]
    assert column.lineage == (
        SourceField(topic="orders", field="customer_id"),
        SourceField(topic="payments", field="customer_id"),
    )
    assert column.tags == ("pii", "billing")


def test_the_result_is_keyed_by_the_join_and_has_the_later_time() -> None:
    """No column holds the time of a pair, so the record does; keys and times decide what comes out."""
    made = output(joined())
    assert made.key == ("order_id",)
    assert (made.time, made.record_time) == (None, True)
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .join(hr.stream("payments").filter(col("amount") > 1), on="order_id", within="1m")
            .select("quantity", "order_id")
            .to("out")
        ),
        PAYMENTS,
    )
    assert set(output(plan).influences) == {
        SourceField(topic="orders", field="placed_at"),
        SourceField(topic="payments", field="paid_at"),
        SourceField(topic="payments", field="order_id"),
        SourceField(topic="payments", field="amount"),
    }


def test_one_side_moves_to_where_the_other_is() -> None:
    """Payments go to where orders are by their key; the join's rows stay there."""
    plan = joined()
    repartition = only(plan, "repartition")
    assert (repartition.key, repartition.like) == (("order_id",), "orders")
    assert only(plan, "stream_join").key == ("order_id",)
    other_way = plan_of(
        lambda: hr.stream("payments").join(hr.stream("orders"), on="order_id", within="1m").to("out"), PAYMENTS
    )
    assert only(other_way, "repartition").like == "orders"
    assert only(other_way, "stream_join").inputs[1] == "source_orders"


def test_topics_of_one_avro_key_are_not_alike() -> None:
    """Avro keys carry the id of a schema, so the same key lies elsewhere in another topic: one side moves."""
    plan = plan_of(
        lambda: hr.stream("orders").join(hr.stream("returns"), on="order_id", within="1m").to("out"), RETURNS
    )
    assert only(plan, "repartition").like == "orders"


def test_plain_text_keys_of_as_many_partitions_are_alike() -> None:
    """They meet where they are."""
    plan = plan_of(lambda: hr.stream("readings").join(hr.stream("alarms"), on="sensor", within="1m").to("out"), ALARMS)
    assert "repartition" not in kinds(plan)


def test_columns_that_no_topic_is_keyed_by_move_both_sides() -> None:
    """By headrace's own hash, to as many partitions as the wider side has."""
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .join(hr.stream("payments"), left_on="product_id", right_on="order_id", within="1m")
            .to("out")
        ),
        PAYMENTS,
    )
    moved = [step for step in plan.steps if step.kind == "repartition"]
    assert [(step.key, step.like) for step in moved] == [(("product_id",), None), (("order_id",), None)]
    widths = plan_partitions(plan, {"orders": 2, "payments": 6, "out": 3}.__getitem__)
    assert [widths.topics[step.topic] for step in moved] == [6, 6]
    assert widths.tasks[2] == 6
    assert widths.topics[only(plan, "stream_join").changelog] == 6


def test_topics_that_cannot_be_widened_must_be_equally_wide() -> None:
    """Topics from outside keep their partitions."""
    plan = plan_of(lambda: hr.stream("readings").join(hr.stream("alarms"), on="sensor", within="1m").to("out"), ALARMS)
    with pytest.raises(PartitionMismatch):
        plan_partitions(plan, {"readings": 4, "alarms": 8, "out": 3}.__getitem__)


def test_a_stream_joins_itself() -> None:
    """One source or one repartition feeds both sides."""
    plan = plan_of(
        lambda: (
            (orders := hr.stream("orders").select("order_id", "amount"))
            .join(orders, on="order_id", within="1m")
            .to("out")
        )
    )
    join = only(plan, "stream_join")
    assert join.inputs == ("select_order_id_amount", "select_order_id_amount")
    assert "repartition" not in kinds(plan)

    def by_customer() -> Any:
        orders = hr.stream("orders")
        big = orders.filter(col("quantity") > 10)
        return orders.join(big, on="customer_id", within="1m", suffix="_big").to("out")

    plan = plan_of(by_customer)
    assert kinds(plan).count("repartition") == 2
    assert kinds(plan).count("source") == 1


def test_a_wider_group_needs_no_further_move() -> None:
    """Rows of an inner join lie by its columns. Of others, rows with a null key may lie anywhere."""

    def grouped(how: str) -> Plan:
        return plan_of(
            lambda: (
                hr.stream("orders")
                .join(hr.stream("payments"), left_on="product_id", right_on="order_id", within="1m", how=how)
                .group_by("product_id", "status")
                .agg(n=hr.count())
                .to("out")
            ),
            PAYMENTS,
        )

    assert kinds(grouped("inner")).count("repartition") == 2
    assert kinds(grouped("left")).count("repartition") == 3


def test_the_fingerprint_is_of_what_the_state_means() -> None:
    """Not of grace, names or waiting."""

    def of(**options: Any) -> str:
        fingerprint: str = only(joined(**options), "stream_join").fingerprint
        return fingerprint

    same = of()
    assert of(grace="1h", late="dead_letter", idle_close="1s", max_wait="1s") == same
    assert of(within="6m") != same
    assert of(how="left") != same
    assert of(suffix="_p") != same
    assert of(within=None, before="5m", after="5m") == same


def test_a_join_can_be_named_and_explained() -> None:
    """Its changelog follows the name."""
    plan = plan_of(
        lambda: (
            hr.stream("orders").join(hr.stream("payments"), on="order_id", within="5m").named("paid_orders").to("out")
        ),
        PAYMENTS,
        name="shop",
    )
    assert only(plan, "stream_join").changelog == "shop.paid_orders.changelog"
    text = explain(plan)
    assert "inner join on order_id" in text
    assert "state in shop.paid_orders.changelog" in text


def waiting(grace: str | None, how: str = "left") -> Plan:
    """Orders with their customers as of their time."""
    return plan_of(
        lambda: (
            hr.stream("orders")
            .join(hr.table("customers", history="1d"), on="customer_id", how=how, as_of=True, grace=grace)
            .to("out")
        )
    )


def test_a_join_with_grace_waits_and_keeps_its_rows_in_a_changelog() -> None:
    """The same rows as without, from another step; no grace waits for nothing."""
    step = only(waiting("10m"), "buffered_table_join")
    plain = only(waiting(None), "table_join")
    assert step.grace_ms == 600_000
    assert (step.columns, step.on, step.renames, step.key) == (plain.columns, plain.on, plain.renames, plain.key)
    assert step.changelog == "shop.join_customers.changelog"
    assert kinds(waiting("0s")) == kinds(waiting(None))
    assert only(waiting("1m"), "buffered_table_join").fingerprint == step.fingerprint
    assert only(waiting("1m", "inner"), "buffered_table_join").fingerprint == step.fingerprint


def test_names_that_clash_after_an_outer_join_are_refused() -> None:
    """A right column may not take the name of a left one."""
    with pytest.raises(HeadraceError, match="amount_right"):
        plan_of(
            lambda: (
                hr.stream("orders")
                .with_columns(amount_right=1)
                .join(hr.stream("payments"), on="order_id", within="1m")
                .to("out")
            ),
            PAYMENTS,
        )
