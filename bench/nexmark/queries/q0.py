"""Query 0: what it costs to read and write bids."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids


@hr.pipeline(owner="bench")
def q0() -> Any:
    """All bids."""
    return hr.stream(bids.TOPIC).select("auction", "bidder", "price", "date_time", "extra").to("nexmark.q0")


SQL = "select auction, bidder, price, date_time, extra from bids"
