"""A driver gives what a worker gives on a log, and what it gives does not depend on batches, restarts and aborts."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.harness import Harness

import headrace as hr
from headrace import col
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from headrace.testing import Driver, contract

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BIDS = contract("bids", {"item": "string", "price": "long", "at": "timestamp-millis"}, key="item", time="at")
ITEMS = contract("items", {"item": "string", "seller": "string"}, key="item", kind="table")


@hr.pipeline
def sellers() -> Any:
    """A lookup behind a repartition, then windows by another key behind a second one."""
    sold = hr.stream("bids").filter(col("price") > 0).join(hr.table("items"), on="item")
    minutes = sold.group_by("seller").window(hr.tumbling("1m", grace="20s"))
    return minutes.agg(bids=hr.count(), highest=hr.max("price")).to("sellers", emit="final"), sold.to("sold")


def bid(item: str, second: int, price: int) -> dict[str, Any]:
    return {"item": item, "price": price, "at": NOON + timedelta(seconds=second)}


SELLERS = [{"item": f"i{n}", "seller": f"s{n % 3}"} for n in range(5)]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: repr(sorted(row.items(), key=lambda each: each[0])))


def test_results_are_those_of_a_worker(tmp_path: Path) -> None:
    """The same rows through a worker on an embedded log and through a driver: the same rows come out."""
    bids = [bid(f"i{n % 7}", n * 3 - (n % 5) * 8 + 40, n % 9) for n in range(120)]
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        compiled = compile_pipeline(sellers, {"bids": BIDS, "items": ITEMS})
        worker = Harness(log, MemoryRegistry(), [BIDS, ITEMS], compiled, partitions=1)
        worker.publish("items", SELLERS)
        worker.publish("bids", bids)
        worker.run_until_caught_up(and_then=lambda: len(worker.rows("sellers")) >= 15)
        sold, final = worker.rows("sold"), worker.rows("sellers")
    with Driver(sellers, contracts=[BIDS, ITEMS]) as driver:
        driver.publish("items", SELLERS)
        driver.publish("bids", bids)
        assert in_order(driver.rows("sold")) == in_order(sold)
        assert in_order(driver.rows("sellers")) == in_order(final)


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 200), st.integers(0, 5)).map(lambda row: bid(f"i{row[0]}", *row[1:])),
    min_size=1,
    max_size=12,
)
FAULTS = st.lists(st.sampled_from(["batch", "restart", "abort", "none"]), min_size=12, max_size=12)


@pytest.mark.timeout(120)
@settings(max_examples=15, deadline=None)
@given(rows=ROWS, faults=FAULTS)
def test_batches_restarts_and_aborts_change_nothing(rows: list[dict[str, Any]], faults: list[str]) -> None:
    """Rows one by one, against the same rows cut, restarted and aborted at random: records, drops, dead letters."""
    with Driver(sellers, contracts=[BIDS, ITEMS]) as driver:
        driver.publish("items", SELLERS)
        for row in rows:
            driver.publish("bids", row)
        expected = in_order(driver.rows("sold")), in_order(driver.rows("sellers")), driver.dropped
    with Driver(sellers, contracts=[BIDS, ITEMS]) as driver:
        driver.publish("items", SELLERS)
        pending: list[dict[str, Any]] = []
        for row, fault in zip(rows, faults, strict=False):
            pending.append(row)
            if fault == "batch":
                continue
            if fault == "restart":
                driver.restart()
            if fault == "abort":
                driver.abort_next()
            driver.publish("bids", pending)
            pending = []
        driver.publish("bids", pending)
        assert (in_order(driver.rows("sold")), in_order(driver.rows("sellers")), driver.dropped) == expected


def test_the_same_calls_give_the_same_records() -> None:
    """Bytes, order and offsets included."""

    def run() -> Any:
        with Driver(sellers, contracts=[BIDS, ITEMS], partitions=3) as driver:
            driver.publish("items", SELLERS)
            driver.publish("bids", [bid(f"i{n % 6}", n * 5, n) for n in range(60)])
            driver.advance("3s")
            return driver.records("sold"), driver.records("sellers")

    assert run() == run()
