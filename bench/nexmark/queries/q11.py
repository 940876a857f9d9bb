"""Query 11: how people bid in one go.

The session's end is the time of its last bid; the original's is a gap later.
"""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids


@hr.pipeline(owner="bench")
def q11() -> Any:
    """Bids by bidder, as long as there are no 10 seconds without one."""
    sessions = hr.stream(bids.TOPIC).group_by("bidder").window(hr.session("10s"))
    return sessions.agg(bids=hr.count()).to("nexmark.q11", emit="final")


SQL = """
with marked as (
    select bidder, date_time,
        coalesce(date_time - lag(date_time) over bidding > interval 10 seconds, true) as begins
    from bids window bidding as (partition by bidder order by date_time)
),
numbered as (
    select bidder, date_time,
        count(*) filter (where begins) over (
            partition by bidder order by date_time rows between unbounded preceding and current row
        ) as session
    from marked
)
select bidder, min(date_time) as window_start, max(date_time) as window_end, count(*) as bids
from numbered group by bidder, session
"""
