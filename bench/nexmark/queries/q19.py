"""Query 19: the ten highest bids of each auction."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids


@hr.pipeline(owner="bench")
def q19() -> Any:
    """The ten highest bids of each auction, with their rank; of equal ones the first."""
    return hr.stream(bids.TOPIC).group_by("auction").top_n(10, by="price", rank="rank").to("nexmark.q19")


SQL = """
select auction, bidder, price, channel, url, date_time, extra,
    row_number() over (partition by auction order by price desc, arrival) as rank
from bids qualify rank <= 10
"""
