"""The tree that `headrace plan --explain` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import headrace as hr
from headrace import col
from headrace.flow.explain import explain, type_text
from tests.flow.samples import STATUS, TIMESTAMP, plan_of


async def look_up(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row


def shop() -> Any:
    """Hourly revenue."""
    orders = hr.stream("orders").filter(col("amount") > 3)
    hourly = (
        orders.join(hr.table("customers", history="7d"), on="customer_id", how="left", as_of=True)
        .group_by("status_right")
        .window(hr.hopping("1h", "15m", grace="10m", idle_close="30s"))
        .agg(orders=hr.count(), revenue=hr.sum(col("amount") * 2), p95=hr.quantile("amount", 0.95))
    )
    orders.explode("items").map_async(look_up, schema={"x": "string"}).to("looked.up")
    return hourly.to("revenue.hourly", emit="final")


def test_a_plan_is_a_tree_of_lines() -> None:
    """Subtopologies, steps with their expressions, state, repartition topics, outputs with types and lineage."""
    text = explain(plan_of(shop, owner="sales"))
    assert text.split("\n")[0] == "pipeline shop, owner sales: exactly once, commits every 100ms"
    for line in (
        "├─ subtopology 0: one task for each partition of orders",
        "source_orders: read orders (event time placed_at) [by order_id]",
        'filter_amount < source_orders: keep rows where [(col("amount")) > (3)] [by order_id]',
        "move rows by customer_id through shop.repartition_customer_id.repartition, spread like customers",
        "read table customers (kind table, 7d of history) [key customer_id]",
        "left join on customer_id (as of the row's event time), adds name, status_right, joined_at",
        '__agg_0 = [(col("amount")) * (2)].alias("__agg_0")',
        "aggregate by status_right in windows of 1h every 15m, grace 10m, closed after 30s without input; "
        "emits each window once, when closed [key status_right, window_start]",
        "orders = count()",
        "p95 = quantile(amount, q=0.95)",
        "state in shop.aggregate_status_right.changelog",
        "explode_items < filter_amount: a row for each element of items [by order_id]",
        "await look_up for each row, 16 at once",
        "output looked.up: event, no key",
        "└─ output revenue.hourly: event, key status_right, window_start, event time window_start",
        "revenue: double? aggregated from orders.amount",
        "status_right: string? from customers.status",
        "window_start: timestamp-millis computed from orders.placed_at",
        "rows also depend on customers.customer_id, orders.amount, orders.customer_id, orders.placed_at",
    ):
        assert line in text, f"{line}\n\n{text}"


def test_every_line_hangs_on_the_tree() -> None:
    """Below the head, every line begins with a branch."""
    lines = explain(plan_of(shop)).split("\n")
    assert all(line.lstrip("│ ").startswith(("├─ ", "└─ ")) for line in lines[1:])


def test_types_are_shown_in_short_form() -> None:
    """As contracts write them."""
    assert type_text("string") == "string"
    assert type_text(["null", TIMESTAMP]) == "timestamp-millis?"
    assert type_text(["null", {"type": "array", "items": ["null", "int"]}]) == "array<int?>?"
    assert type_text({"type": "map", "values": "long"}) == "map<long>"
    assert type_text(STATUS) == "enum Status"
    assert type_text({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}) == "decimal(9,2)"
    assert type_text(["null", "int", "string"]) == "union<int, string>?"
