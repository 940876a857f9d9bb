"""Query 14: a filter and several computed columns."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids
from headrace import col, lit, when


@hr.pipeline(owner="bench")
def q14() -> Any:
    """Bids of one million to 50 million cents, with the time of day and the number of times their text has a c."""
    hour = col("date_time").dt.hour()
    is_day, is_night = hour.is_between(8, 18), (hour <= 6) | (hour >= 20)
    in_euros = hr.stream(bids.TOPIC).with_columns(price=col("price") * 0.908)
    wanted = in_euros.filter((col("price") > 1_000_000) & (col("price") < 50_000_000))
    return wanted.select(
        "auction",
        "bidder",
        "price",
        when(is_day)
        .then(lit("dayTime"))
        .when(is_night)
        .then(lit("nightTime"))
        .otherwise(lit("otherTime"))
        .alias("time"),
        "date_time",
        "extra",
        col("extra").str.count_matches("c", literal=True).alias("c_counts"),
    ).to("nexmark.q14")


SQL = """
select auction, bidder, price::double * 0.908::double as price,
    case when hour(date_time) between 8 and 18 then 'dayTime'
         when hour(date_time) <= 6 or hour(date_time) >= 20 then 'nightTime'
         else 'otherTime' end as time,
    date_time, extra, length(extra) - length(replace(extra, 'c', '')) as c_counts
from bids where price::double * 0.908::double > 1e6 and price::double * 0.908::double < 5e7
"""
