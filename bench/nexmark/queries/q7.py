"""Query 7: the highest bids of every 10 seconds.

The maximum comes when its window closes; bids wait for it as long. As in the original, a bid at the very end of a
window, which is in the next one already, counts too where its price is the window's.
"""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids
from headrace import lit


@hr.pipeline(owner="bench")
def q7() -> Any:
    """The bids with the highest price of their 10 seconds."""
    offers = hr.stream(bids.TOPIC).select("auction", "bidder", "price", "date_time", "extra")
    windows = offers.group_by(lit(0).alias("all")).window(hr.tumbling("10s")).agg(highest=hr.max("price"))
    highest = windows.suppress(hr.until_closed()).changes().select("highest", "window_start")
    # From the window's point of view: bids from its start to its end.
    best = highest.join(offers, left_on="highest", right_on="price", before="0s", after="10s")
    return best.select("auction", "bidder", "date_time", "extra", price="highest").to("nexmark.q7")


SQL = """
select b.auction, b.bidder, b.date_time, b.extra, b.price
from bids b
join (
    select time_bucket(interval 10 seconds, date_time) as starts, max(price) as highest from bids group by starts
) w on b.price = w.highest and b.date_time between w.starts and w.starts + interval 10 seconds
"""
