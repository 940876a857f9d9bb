"""Query 21: where bids come from."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import bids
from headrace import col, lit, when


@hr.pipeline(owner="bench")
def q21() -> Any:
    """Bids with the number of their channel: a known one, or the one in their address."""
    channel = col("channel").str.to_lowercase()
    number = (
        when(channel == "apple").then(lit("0"))
        .when(channel == "google").then(lit("1"))
        .when(channel == "facebook").then(lit("2"))
        .when(channel == "baidu").then(lit("3"))
        .otherwise(col("url").str.extract("(&|^)channel_id=([^&]*)", 2))
    )  # fmt: skip
    numbered = hr.stream(bids.TOPIC).select("auction", "bidder", "price", "channel", channel_id=number)
    return numbered.filter(col("channel_id").is_not_null()).to("nexmark.q21")


SQL = """
select auction, bidder, price, channel,
    case lower(channel) when 'apple' then '0' when 'google' then '1' when 'facebook' then '2' when 'baidu' then '3'
        else nullif(regexp_extract(url, '(&|^)channel_id=([^&]*)', 2), '') end as channel_id
from bids where channel_id is not null
"""
