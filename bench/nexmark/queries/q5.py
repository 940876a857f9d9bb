"""Query 5: what everybody bids on.

Final counts by auction and window become a stream again; its rows of one window are the input of a maximum, and join
it.
"""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids


@hr.pipeline(owner="bench")
def q5() -> Any:
    """The auctions with the most bids in the last 10 seconds, every 2 seconds."""
    windows = hr.stream(bids.TOPIC).group_by("auction").window(hr.hopping("10s", "2s")).agg(bids=hr.count())
    counts = windows.suppress(hr.until_closed()).changes()
    counts = counts.select("auction", "bids", starts="window_start", ends="window_end")
    best = counts.group_by("starts").window(hr.tumbling("2s")).agg(most=hr.max("bids"))
    most = best.suppress(hr.until_closed()).changes().select("starts", "most")
    hot = counts.join(most, left_on=["starts", "bids"], right_on=["starts", "most"], within="0s")
    return hot.select("auction", "bids", "starts", "ends").to("nexmark.q5")


SQL = """
with counts as (
    select auction, starts, count(*) as bids
    from (
        select auction, unnest(range(5)) * interval 2 seconds as back, date_time,
            time_bucket(interval 2 seconds, date_time) - back as starts
        from bids
    )
    group by auction, starts
)
select auction, bids, starts, starts + interval 10 seconds as ends
from counts
qualify bids = max(bids) over (partition by starts)
"""
