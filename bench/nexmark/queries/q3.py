"""Query 3: who sells in some states, a join of two growing tables.

Auctions know their seller, so this is a foreign-key join: a person who registers later than their auction, or again,
changes every one of their auctions.
"""

from __future__ import annotations

from typing import Any

import headrace as hr
from bench.nexmark import auctions, persons
from headrace import col


@hr.pipeline(owner="bench")
def q3() -> Any:
    """Auctions of category 10 whose sellers live in Oregon, Idaho or California."""
    offered = hr.stream(auctions.TOPIC).filter(category=10).select("id", "seller").as_table("id")
    nearby = hr.stream(persons.TOPIC).filter(col("state").is_in(["OR", "ID", "CA"]))
    sellers = nearby.select("id", "name", "city", "state").as_table("id")
    return offered.join(sellers, left_on="seller").select("id", "name", "city", "state").to("nexmark.q3")


SQL = """
select a.id, p.name, p.city, p.state
from auctions a join persons p on a.seller = p.id
where a.category = 10 and p.state in ('OR', 'ID', 'CA')
"""
