"""Query 8: new people who sell at once."""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import auctions, persons


@hr.pipeline(owner="bench")
def q8() -> Any:
    """People who registered and opened an auction in the same 10 seconds."""
    window = hr.tumbling("10s")
    people = hr.stream(persons.TOPIC).group_by("id").window(window).agg(name=hr.first("name"))
    sellers = hr.stream(auctions.TOPIC).group_by("seller").window(window).agg(auctions=hr.count())
    registered = people.suppress(hr.until_closed()).changes().select("id", "name", "window_start")
    sold = sellers.suppress(hr.until_closed()).changes().select("seller", "window_start")
    both = registered.join(sold, left_on=["id", "window_start"], right_on=["seller", "window_start"], within="0s")
    return both.select("id", "name", "window_start").to("nexmark.q8")


SQL = """
with people as (select distinct id, name, time_bucket(interval 10 seconds, date_time) as window_start from persons),
sellers as (select distinct seller, time_bucket(interval 10 seconds, date_time) as window_start from auctions)
select p.id, p.name, p.window_start
from people p join sellers s on p.id = s.seller and p.window_start = s.window_start
"""
