"""Query 22: parts of an address."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids
from headrace import col


@hr.pipeline(owner="bench")
def q22() -> Any:
    """Bids with the three folders of their address."""
    parts = col("url").str.split("/")
    folders = {f"dir{n - 2}": parts.list.get(n, null_on_oob=True) for n in (3, 4, 5)}
    return hr.stream(bids.TOPIC).select("auction", "bidder", "price", "channel", **folders).to("nexmark.q22")


SQL = """
select auction, bidder, price, channel, split_part(url, '/', 4) as dir1, split_part(url, '/', 5) as dir2,
    split_part(url, '/', 6) as dir3
from bids
"""
