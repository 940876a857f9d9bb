"""Query 1: prices in another currency."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids
from headrace import col


@hr.pipeline(owner="bench")
def q1() -> Any:
    """Bids with their prices in euros."""
    in_euros = hr.stream(bids.TOPIC).with_columns(price=col("price") * 0.908)
    return in_euros.select("auction", "bidder", "price", "date_time", "extra").to("nexmark.q1")


SQL = "select auction, bidder, price::double * 0.908::double as price, date_time, extra from bids"
