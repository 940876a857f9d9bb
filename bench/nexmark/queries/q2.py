"""Query 2: a few bids out of many."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids
from headrace import col


@hr.pipeline(owner="bench")
def q2() -> Any:
    """Bids on every 123rd auction."""
    return hr.stream(bids.TOPIC).filter(col("auction") % 123 == 0).select("auction", "price").to("nexmark.q2")


SQL = "select auction, price from bids where auction % 123 = 0"
