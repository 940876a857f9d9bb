"""Query 20: bids with all that is known of their auctions.

A join of two streams: a bid may come before its auction, by the little that the generator's clock is ahead, so a lookup
would miss it. The interval is longer than bids come for an auction.
"""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import auctions, bids


@hr.pipeline(owner="bench")
def q20() -> Any:
    """Bids on auctions of category 10, with their auction."""
    offered = hr.stream(auctions.TOPIC).filter(category=10)
    offers = hr.stream(bids.TOPIC)
    lasts = f"{auctions.LASTS_MS_MAX}ms"
    both = offers.join(offered, left_on="auction", right_on="id", within=lasts, suffix="_of_auction")
    return both.to("nexmark.q20")


SQL = """
select b.*, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time as date_time_of_auction, a.expires,
    a.seller, a.category, a.extra as extra_of_auction
from bids b join auctions a on b.auction = a.id
where a.category = 10
"""
