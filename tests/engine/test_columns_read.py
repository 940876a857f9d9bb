"""Decoding only the columns that a plan reads: nothing else follows from it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given, settings

import headrace as hr
from headrace import col
from headrace.engine import assembly, build
from headrace.engine.topic_reader import TopicReader
from headrace.flow.columns_read import columns_read
from headrace.flow.compile import compile_pipeline
from headrace.testing import Driver
from tests.engine.catalogue import CONTRACTS
from tests.engine.test_every_step import DECLARED, EVENTS, Event, feed, numbered, read_of, results


def compiled(make: Any) -> Any:
    return compile_pipeline(hr.pipeline(name="narrow", owner="tests")(make), DECLARED)


def total(selection: str | None) -> Any:
    stream = hr.stream("orders").filter(col("id") >= 0)
    stream = stream if selection is None else stream.select(selection, "who")
    return stream.group_by("who").agg(orders=hr.count()).to("narrow.table", emit="updates")


def joined(table: str) -> Any:
    return hr.stream("orders").filter(col("id") >= 0).join(hr.table(table), on="who", how="left")


def whole() -> Any:
    return hr.stream("orders").map_batches(lambda frame: frame.select("id"), schema={"id": pl.Int64}).to("o.rows")


NARROW = {
    "aggregate": compiled(lambda: total(None)),
    "projection": compiled(lambda: total("amount")),
    "join": compiled(lambda: joined("people").filter(col("rank") > 0).select("id", "city").to("joined.rows")),
    "join of two": compiled(
        lambda: joined("people").join(hr.table("cities"), on="city", how="left").select("who", "land").to("two.rows")
    ),
    "join, then aggregate": compiled(lambda: joined("people").group_by("who").agg(n=hr.max("rank")).to("rank.table")),
    "nothing but rows": compiled(lambda: hr.stream("orders").select(one=1).to("ones.rows")),
}


@pytest.mark.parametrize("name", sorted(NARROW))
@given(events=EVENTS)
@settings(max_examples=8, deadline=None)
def test_the_results_are_those_of_whole_rows(name: str, events: list[Event]) -> None:
    """Rows, dropped rows and dead letters."""
    compiled = NARROW[name]
    events = read_of(compiled, numbered(events))

    def run() -> dict[str, Any]:
        with Driver(compiled, contracts=CONTRACTS) as driver:
            feed(driver, events)
            return results(driver, compiled)

    with patch.object(assembly, "columns_read", lambda _: {}), patch.object(build, "columns_read", lambda _: {}):
        expected = run()
    assert run() == expected


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda: total(None), {"orders": {"id", "who"}}),
        (lambda: total("amount"), {"orders": {"id", "who", "amount"}}),
        (lambda: hr.stream("orders").drop_nulls("amount").select("id").to("o.rows"), {"orders": {"id", "amount"}}),
        (lambda: hr.stream("orders").filter(col("id") > 0).to("o.rows"), {}),
        (whole, {}),
        (lambda: joined("people").select("rank").to("o.rows"), {"orders": {"id", "who"}}),
        (lambda: joined("people").to("o.rows"), {}),
        (
            lambda: hr.stream("orders").join(hr.stream("payments"), on="who", within="1s").select("id").to("o.rows"),
            {},
        ),
        (
            lambda: (hr.stream("orders").select("id").to("o.rows"), hr.stream("orders").select("who").to("w.rows")),
            {"orders": {"id", "who"}},
        ),
    ],
)
def test_which_columns(make: Any, read: dict[str, set[str]]) -> None:
    """Everything that any step may look at, and whole rows where a step takes them."""
    assert columns_read(compiled(make).plan) == read


def test_only_those_are_decoded() -> None:
    """And those of the key."""
    compiled = NARROW["projection"]
    seen: list[list[str]] = []
    read = TopicReader.read

    def noted(self: TopicReader, batch: Any) -> Any:
        rows = read(self, batch)
        seen.append([name for name in rows.frame.columns if not name.startswith("__")])
        return rows

    with patch.object(TopicReader, "read", noted), Driver(compiled, contracts=CONTRACTS) as driver:
        driver.publish("orders", {"id": 1, "who": "a", "amount": 2, "tags": ["t"]}, time=1)
        assert driver.table("narrow.table") != {}
    assert seen == [["id", "who", "amount"]]
