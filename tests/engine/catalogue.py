"""Pipelines that together use every step there is, over one set of topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

import headrace as hr
from headrace import col
from headrace.contracts.contract import Contract
from headrace.testing import contract

CONTRACTS: list[Contract] = [
    contract(
        "orders",
        {"id": "long", "who": "string?", "amount": "long?", "tags": {"type": "array", "items": "string"}},
        key="who",
        key_encoding="string",
        partitions=1,
        time="$timestamp",
    ),
    contract(
        "payments",
        {"who": "string?", "paid": "long"},
        key="who",
        key_encoding="string",
        partitions=1,
        time="$timestamp",
    ),
    contract(
        "people",
        {"who": "string", "city": "string?", "rank": "long?"},
        key="who",
        key_encoding="string",
        kind="table",
        partitions=1,
        time="$timestamp",
    ),
    contract(
        "cities",
        {"city": "string", "land": "string?"},
        key="city",
        key_encoding="string",
        kind="table",
        partitions=1,
        time="$timestamp",
    ),
]

Make = Callable[[], Any]
PIPELINES: dict[str, Make] = {}
"""By name. Outputs whose names end in `.final` or `.rows` are streams and are the same for every cut, `.table` ones are
tables, of which the last rows are."""


def listed(make: Make) -> Make:
    PIPELINES[make.__name__] = make
    return make


def orders() -> Any:
    return hr.stream("orders")


@listed
def rows() -> Any:
    """filter, project, drop_nulls, explode, map, map_batches, map_async, branch, merge"""

    async def slow(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "double": row["amount"] * 2}

    big, small = orders().drop_nulls("amount").branch(col("amount") > 5, True)
    both = big.with_columns(size=pl.lit("big")).merge(small.with_columns(size=pl.lit("small")))
    twice = both.map(
        lambda row: {"id": row["id"], "amount": row["amount"]}, schema={"id": pl.Int64, "amount": pl.Int64}
    )
    twice.map_async(slow, schema={"id": pl.Int64, "double": pl.Int64}, one_at_a_time_by="id").to("async.rows")
    both.map_batches(lambda frame: frame.select("id", "size"), schema={"id": pl.Int64, "size": pl.String}).to(
        "map.rows"
    )
    return orders().filter(col("id") > 2).explode("tags").select("id", "tags").to("exploded.rows")


@listed
def windows() -> Any:
    """tumbling, hopping, session, sliding, final; late rows; nested"""
    grouped = orders().group_by("who")
    tumbling = grouped.window(hr.tumbling("10ms", grace="5ms"), late="stream").agg(n=hr.count(), total=hr.sum("amount"))
    hopping = grouped.window(hr.hopping("20ms", "5ms", grace="3ms")).agg(first=hr.first("id"), last=hr.last("id"))
    session = grouped.window(hr.session("4ms", grace="6ms")).agg(ids=hr.collect("id"))
    sliding = grouped.window(hr.sliding("8ms", grace="6ms")).agg(most=hr.max("amount"))
    nested = session.suppress(hr.until_closed()).changes().group_by("who").window(hr.tumbling("30ms")).agg(n=hr.count())
    return (
        tumbling.to("tumbling.final", emit="final"),
        tumbling.late().to("late.rows"),
        hopping.to("hopping.final", emit="final"),
        sliding.to("sliding.final", emit="final"),
        nested.to("nested.final", emit="final"),
    )


@listed
def updates() -> Any:
    """Windows and groups that speak at commits."""
    grouped = orders().group_by("who")
    return (
        grouped.agg(n=hr.count(), mean=hr.mean("amount")).to("groups.table"),
        grouped.window(hr.session("4ms", grace="6ms")).agg(n=hr.count()).to("sessions.table", emit="updates"),
        grouped.window(hr.sliding("8ms", grace="6ms")).agg(n=hr.count()).to("sliding.table", emit="updates"),
        grouped.top_n(2, by="amount").to("top.table"),
        grouped.window(hr.tumbling("10ms", grace="5ms")).top_n(1, by="amount").to("top.final", emit="final"),
    )


@listed
def stream_joins() -> Any:
    """inner, left, outer, self, and a chain"""
    payments = hr.stream("payments")
    inner = orders().join(payments, on="who", within="6ms", grace="4ms")
    return (
        inner.to("inner.rows", key="who"),
        orders().join(payments, on="who", how="left", before="2ms", after="5ms").to("left.rows", key="who"),
        orders().join(payments, on="who", how="outer", within="5ms", grace="2ms").to("outer.rows", key="who"),
        orders().join(orders(), on="who", within="3ms").to("self.rows", key="who"),
        inner.join(payments, on="who", within="3ms", how="left", suffix="_again").to("chain.rows", key="who"),
    )


@listed
def lookups() -> Any:
    """latest, as of, buffered, broadcast"""
    people = hr.table("people", history="20ms")
    return (
        orders().join(hr.table("people"), on="who", how="left").to("latest.rows", key="who"),
        orders().join(people, on="who", as_of=True).to("as_of.rows", key="who"),
        orders().join(people, on="who", as_of=True, how="left", grace="5ms").to("buffered.rows", key="who"),
    )


@listed
def table_joins() -> Any:
    """key, foreign key, chains, aggregates over them with retraction, changes"""
    people, cities = hr.table("people"), hr.table("cities")
    payers = hr.stream("payments").drop_nulls("who").as_table("who", deleted=col("paid") == 0)
    joined = people.join(payers, how="outer").join(people.rename({"rank": "rank_again"}), how="left", suffix="_again")
    living = people.join(cities, left_on="city", how="left")
    lands = living.filter(col("land").is_not_null()).group_by("land")
    counted = lands.agg(n=hr.count(), least=hr.min("rank"), ids=hr.collect("who"), total=hr.sum("rank"))
    return (
        joined.to("joined.table"),
        living.to("living.table"),
        counted.to("lands.table"),
        counted.group_by("n").agg(lands=hr.count()).to("sizes.table"),
    )


@listed
def keyed() -> Any:
    """process with timers, dedupe, expire, suppress"""

    class Silence(hr.Processor):
        def on_row(self, row: Any, context: Any) -> Any:
            context.state = (context.state or 0) + 1
            context.at(context.time_ms + 7)
            return {"who": row["who"], "n": context.state, "what": "row"}

        def on_timer(self, context: Any) -> Any:
            seen, context.state = context.state, None
            return {"who": context.key["who"], "n": seen, "what": "silent"}

    schema = {"who": pl.String, "n": pl.Int64, "what": pl.String}
    known = orders().drop_nulls("who")
    counted = known.group_by("who").agg(n=hr.count())
    return (
        known.process(Silence(), by="who", schema=schema).to("process.rows", key="who"),
        orders().dedupe("amount", within="6ms", grace="3ms").to("dedupe.rows", key="who"),
        known.as_table("who", ttl="9ms").to("expire.table"),
        counted.suppress(hr.until("5ms")).to("held.table"),
    )
