"""Which source columns each output column comes from, and which decide what rows there are."""

from __future__ import annotations

from typing import Any

import polars as pl

import headrace as hr
from headrace import col
from headrace.flow.plan import Plan
from headrace.flow.steps import SinkStep
from headrace.flow.values import Derivation
from tests.flow.samples import output, plan_of


def lineage(plan: Plan, topic: str = "out") -> dict[str, tuple[str, set[str]]]:
    """Derivation and sources of each column of an output."""
    (sink,) = [step for step in plan.steps if isinstance(step, SinkStep) and step.topic == topic]
    return {
        column.name: (column.derivation.value, {f"{each.topic}.{each.field}" for each in column.lineage})
        for column in sink.columns
    }


def influences(plan: Plan) -> set[str]:
    return {f"{each.topic}.{each.field}" for each in output(plan).influences}


def test_row_wise_steps() -> None:
    """Copies are copies through renames; an expression comes from all its columns, through earlier expressions."""
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .filter(col("status") != "LOST")
            .with_columns(total=col("amount") * col("quantity"))
            .with_columns(big=col("total") > 100, one=pl.lit(1))
            .select("order_id", "big", "one", price="amount")
            .to("out")
        )
    )
    assert lineage(plan) == {
        "order_id": ("copied", {"orders.order_id"}),
        "big": ("computed", {"orders.amount", "orders.quantity"}),
        "one": ("computed", set()),
        "price": ("copied", {"orders.amount"}),
    }
    assert influences(plan) == {"orders.status"}


def test_through_join_aggregate_and_table_steps() -> None:
    """Lineage goes through renamed and computed table columns, joins, aggregates and steps behind them."""

    def shop() -> Any:
        customers = hr.table("customers").with_columns(initial=col("name").str.slice(0, 1)).rename({"status": "level"})
        return (
            hr.stream("orders")
            .filter("paid")
            .join(customers, on="customer_id", how="left")
            .group_by("level", "initial")
            .window(hr.tumbling("1h"))
            .agg(revenue=hr.sum(col("amount") * col("quantity")), best=hr.max("name"), orders=hr.count())
            .with_columns(mean=col("revenue") / col("orders"))
            .to("out")
        )

    plan = plan_of(shop)
    assert lineage(plan) == {
        "level": ("copied", {"customers.status"}),
        "initial": ("computed", {"customers.name"}),
        "window_start": ("computed", {"orders.placed_at"}),
        "window_end": ("computed", {"orders.placed_at"}),
        "revenue": ("aggregated", {"orders.amount", "orders.quantity"}),
        "best": ("aggregated", {"customers.name"}),
        "orders": ("aggregated", set()),
        "mean": ("aggregated", {"orders.amount", "orders.quantity"}),
    }
    assert influences(plan) == {
        "orders.paid", "orders.customer_id", "customers.customer_id", "customers.name", "orders.placed_at",
    }  # fmt: skip


def test_explode_is_computed() -> None:
    """An element is not its list."""
    plan = plan_of(lambda: hr.stream("orders").explode("items").select("items").to("out"))
    assert lineage(plan) == {"items": ("computed", {"orders.items"})}


def test_the_strongest_derivation_wins() -> None:
    """What was aggregated once stays aggregated, whatever is computed of it."""
    plan = plan_of(
        lambda: (
            hr.stream("orders").group_by("status").agg(n=hr.count("amount")).select("status", m=col("n") + 1).to("out")
        )
    )
    column = plan.steps[-1].columns[1]
    assert column.derivation is Derivation.AGGREGATED
