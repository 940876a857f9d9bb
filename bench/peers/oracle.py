"""The right answers, and whether a system's output says the same.

- Answers are Polars' over all rows at once; every row is compared, in any order.
- Of sums the last row of each customer and minute counts: how often one is updated is the system's own affair.
- Sums are exact: amounts are quarters.
"""

from __future__ import annotations

import polars as pl

from bench.peers import data
from bench.peers.data import Orders
from bench.peers.jobs import Job

SHOWN_ROWS_MAX = 3
ORDER = ("order_id", "customer_id", "ts", "amount")


def expected(job: Job, orders: Orders, payments: pl.DataFrame | None = None) -> pl.DataFrame:
    """What the job must have said in the end."""
    if job.task == "tumbling_sum":
        return _sums(orders)
    if job.task == "filter_project":
        return _named(orders).filter(pl.col("status") == data.PAID).select(ORDER)
    if job.task == "customer_join":
        joined = _named(orders).join(data.make_customers(), on="customer")
        return joined.select(*ORDER, "name", "country", "tier")
    assert payments is not None
    return _pairs(orders, payments)


def wrong(job: Job, found: pl.DataFrame, answer: pl.DataFrame) -> str:
    """The first differences; empty when all is right."""
    if job.task == "tumbling_sum":
        found = found.unique(["customer_id", "window_start"], keep="last", maintain_order=True)
    plain = found.select(pl.col(name).cast(dtype) for name, dtype in answer.schema.items())
    columns = answer.columns
    counted = (
        plain.group_by(columns)
        .len("found")
        .join(answer.group_by(columns).len("expected"), on=columns, how="full", coalesce=True, nulls_equal=True)
    )
    different = counted.filter(pl.col("found").fill_null(0) != pl.col("expected").fill_null(0))
    if different.is_empty():
        return ""
    shown = different.sort(columns).head(SHOWN_ROWS_MAX).to_dicts()
    return f"{different.height} rows differ of {answer.height}: {shown}"


def _named(orders: Orders) -> pl.DataFrame:
    return orders.frame.with_columns(order_id=orders.order_ids(), customer_id=orders.customer_ids())


def _sums(orders: Orders) -> pl.DataFrame:
    window = (pl.col("ts") // data.WINDOW_MS * data.WINDOW_MS).alias("window_start")
    return (
        orders.frame.with_columns(customer_id=orders.customer_ids())
        .group_by("customer_id", window)
        .agg(total=pl.col("amount").sum(), n=pl.len().cast(pl.Int64))
    )


def _pairs(orders: Orders, payments: pl.DataFrame) -> pl.DataFrame:
    delay = pl.col("paid_at") - pl.col("ts")
    return (
        _named(orders)
        .join(payments, on="customer")
        .filter(delay.is_between(0, data.NEAR_MS))
        .select(
            *ORDER,
            pl.format("pay-{}", pl.col("payment").cast(pl.String).str.zfill(7)).alias("payment_id"),
            "paid_at",
            "cents",
        )
    )
