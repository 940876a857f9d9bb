"""Query 17: figures of each auction by day."""

from __future__ import annotations

from typing import Any

import polars as pl

import headrace as hr
from bench.nexmark import bids
from headrace import col


@hr.pipeline(owner="bench")
def q17() -> Any:
    """Bids by auction and day: how many, how many of three ranks, and what was offered."""
    price = col("price")

    def how_many(is_of_rank: pl.Expr) -> Any:
        return hr.sum(is_of_rank.cast(pl.Int64))

    by_day = hr.stream(bids.TOPIC).group_by("auction", col("date_time").dt.date().alias("day"))
    totals = by_day.agg(
        total_bids=hr.count(),
        rank1_bids=how_many(price < 10_000),
        rank2_bids=how_many((price >= 10_000) & (price < 1_000_000)),
        rank3_bids=how_many(price >= 1_000_000),
        min_price=hr.min("price"),
        max_price=hr.max("price"),
        avg_price=hr.mean("price"),
        sum_price=hr.sum("price"),
    )
    return totals.to("nexmark.q17")


SQL = """
select auction, date_time::date as day, count(*) as total_bids,
    count(*) filter (where price < 10000) as rank1_bids,
    count(*) filter (where price >= 10000 and price < 1000000) as rank2_bids,
    count(*) filter (where price >= 1000000) as rank3_bids,
    min(price) as min_price, max(price) as max_price, avg(price) as avg_price, sum(price) as sum_price
from bids group by auction, day
"""
