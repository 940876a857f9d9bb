"""Query 4: what auctions of a category end at, on average.

An interval join, a maximum per auction and, above that changing table, a mean: each better bid takes the auction's
former maximum back.
"""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import auctions, bids
from headrace import col


@hr.pipeline(owner="bench")
def q4() -> Any:
    """The mean of the winning bids by category."""
    offers = hr.stream(bids.TOPIC).select("auction", "price", "date_time")
    offered = hr.stream(auctions.TOPIC).select("id", "category", "expires", "date_time")
    lasts = f"{auctions.LASTS_MS_MAX}ms"
    joined = offers.join(offered, left_on="auction", right_on="id", before=lasts, after="0s")
    in_time = joined.filter(col("date_time") <= col("expires"))
    best = in_time.group_by("auction", "category").agg(final=hr.max("price"))
    return best.group_by("category").agg(average=hr.mean("final")).to("nexmark.q4")


SQL = """
select category, avg(final) as average
from (
    select a.id, a.category, max(b.price) as final
    from auctions a join bids b on a.id = b.auction
    where b.date_time between a.date_time and a.expires
    group by a.id, a.category
)
group by category
"""
