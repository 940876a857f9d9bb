"""Query 18: the last bid of each bidder on each auction."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids


@hr.pipeline(owner="bench")
def q18() -> Any:
    """Everybody's latest bid on each auction."""
    return hr.stream(bids.TOPIC).as_table("bidder", "auction").to("nexmark.q18")


SQL = """
select auction, bidder, price, channel, url, date_time, extra
from bids
qualify row_number() over (partition by bidder, auction order by date_time desc, arrival desc) = 1
"""
