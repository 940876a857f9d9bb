"""kill -9 in the middle of joins, table aggregates, processors and duplicates, on a real broker with real processes.

One workspace with a pipeline for each kind of state. What they wrote is compared with DuckDB over the same rows, and
with a recount in Python where SQL has no words for it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from headrace.demo.replay import records_in
from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import Environment, connect
from headrace.workspace.load import Workspace, load
from headrace.workspace.plan import make_plan
from tests.engine.harness import wait_until
from tests.faults.fleet import committed_rows, fleet, latest, worker_processes

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
ORDERS = 12_000
CHUNKS = 40
KILLS = 4
QUIET_S = 6.0

CONFIG = """
name = "{name}"
environment = "kafka"

[environments.kafka]
log = "kafka"
bootstrap_servers = "{bootstrap}"
partitions = 4
"""
CONTRACTS = {
    "orders": """
topic: orders
owner: shop
key: order_id
time: placed_at
fields: {order_id: string, customer: string, amount: long, placed_at: timestamp-millis}
""",
    "payments": """
topic: payments
owner: shop
key: order_id
time: paid_at
fields: {order_id: string, paid: long, paid_at: timestamp-millis}
""",
    "clicks": """
topic: clicks
owner: shop
key: click_id
time: at
fields: {click_id: string, at: timestamp-millis}
""",
    "customers": """
topic: customers
owner: shop
kind: table
key: customer
fields: {customer: string, country: "string?", tier: int}
""",
    "countries": """
topic: countries
owner: shop
kind: table
key: country
fields: {country: string, region: string}
""",
}
PIPELINES = '''
import headrace as hr
from headrace import col


@hr.pipeline(owner="shop")
def paid_orders():
    """Every order, with what was paid for it within ten minutes."""
    orders, payments = hr.stream("orders"), hr.stream("payments")
    joined = orders.join(payments, on="order_id", how="left", before="0ms", after="10m", grace="1m")
    return joined.to("orders.paid", key="order_id")


@hr.pipeline(owner="shop")
def customers_by_region():
    """Customers and the sum of their tiers by region, whatever moves."""
    customers = hr.table("customers").join(hr.table("countries"), left_on="country", how="left")
    regions = customers.filter(col("region").is_not_null()).group_by("region")
    return regions.agg(customers=hr.count(), tiers=hr.sum("tier"), lowest=hr.min("tier")).to("regions")


class Balance(hr.Processor):
    """A running balance, and an alarm when a customer is silent for a day of event time."""

    def on_row(self, row, context):
        known = context.state or {"orders": 0, "balance": 0}
        state = {"orders": known["orders"] + 1, "balance": known["balance"] + row["amount"]}
        context.state = state
        return {"customer": row["customer"], **state}


@hr.pipeline(owner="shop")
def balances():
    """The running balance of each customer."""
    rows = hr.stream("orders").process(
        Balance(), by="customer", schema={"customer": "string", "orders": "long", "balance": "long"}
    )
    return rows.to("balances", key="customer")


@hr.pipeline(owner="shop")
def largest_orders():
    """The three largest orders of each customer."""
    return hr.stream("orders").group_by("customer").top_n(3, by="amount").to("orders.largest")


@hr.pipeline(owner="shop")
def single_clicks():
    """Clicks that clients sent more than once, once."""
    return hr.stream("clicks").dedupe("click_id", within="1h").to("clicks.once", key="click_id")
'''


def rows_of_orders(generator: random.Random) -> list[dict[str, Any]]:
    """Orders two seconds apart and up to thirty seconds out of order, each of another amount."""
    amounts = generator.sample(range(1, 10_000_000), ORDERS)
    return [
        {
            "order_id": f"o{n}",
            "customer": f"c{generator.randrange(200)}",
            "amount": amounts[n],
            "placed_at": BEGIN + timedelta(seconds=n * 2 + generator.randrange(30)),
        }
        for n in range(ORDERS)
    ]


def rows_of_payments(orders: Sequence[dict[str, Any]], generator: random.Random) -> list[dict[str, Any]]:
    """For two orders of three, up to eight minutes later; some pay twice."""
    found = []
    for order in orders:
        for _ in range(generator.choice([0, 1, 1, 2])):
            paid_at = order["placed_at"] + timedelta(seconds=generator.randrange(480))
            found.append({"order_id": order["order_id"], "paid": generator.randrange(100), "paid_at": paid_at})
    return sorted(found, key=lambda row: row["paid_at"])


class Shop:
    """The workspace, what is published to it, and what must come of it."""

    def __init__(self, environment: Environment, workspace: Workspace) -> None:
        self.environment, self.workspace = environment, workspace
        self.generator = random.Random(11)
        self.orders = rows_of_orders(self.generator)
        self.payments = rows_of_payments(self.orders, self.generator)
        self.paid: list[dict[str, Any]] = []
        self.customers: dict[str, dict[str, Any]] = {}
        self.countries = {f"k{n}": {"country": f"k{n}", "region": f"r{n % 5}"} for n in range(30)}

    def publish(self, publisher: BatchPublisher, topic: str, rows: Sequence[dict[str, Any]]) -> None:
        refused = [each for each in publisher.publish(topic, list(rows)) if isinstance(each, HeadraceError)]
        assert not refused, refused

    def publish_chunk(self, publisher: BatchPublisher, number: int) -> None:
        """Orders of a stretch of time, their payments, some changes of tables, clicks sent again and again."""
        span = ORDERS // CHUNKS
        orders = self.orders[number * span : (number + 1) * span]
        until = orders[-1]["placed_at"]
        due = [row for row in self.payments if row["paid_at"] <= until]
        self.payments = [row for row in self.payments if row["paid_at"] > until]
        self.paid.extend(due)
        self.publish(publisher, "orders", orders)
        self.publish(publisher, "payments", due)
        clicks = [{"click_id": f"x{number}_{n % 50}", "at": until + timedelta(seconds=n % 7)} for n in range(150)]
        self.publish(publisher, "clicks", clicks)
        self.publish_tables(publisher)

    def publish_tables(self, publisher: BatchPublisher) -> None:
        """Some customers change country, some countries change region."""
        changed = []
        for _ in range(60):
            customer = f"c{self.generator.randrange(200)}"
            country = self.generator.choice([None, *(f"k{n}" for n in range(34))])
            row = {"customer": customer, "country": country, "tier": self.generator.randrange(1, 6)}
            self.customers[customer] = row
            changed.append(row)
        self.publish(publisher, "customers", changed)
        moved = self.generator.sample(sorted(self.countries), 3)
        for country in moved:
            self.countries[country] = {"country": country, "region": f"r{self.generator.randrange(5)}"}
        self.publish(publisher, "countries", [self.countries[country] for country in moved])

    def publish_end(self, publisher: BatchPublisher) -> None:
        """The rest of the payments, then a day later something in every partition, so that all time has passed."""
        self.publish(publisher, "payments", self.payments)
        self.paid.extend(self.payments)
        later = BEGIN + timedelta(days=2)
        ticks = [{"order_id": f"tick{n}", "customer": "tick", "amount": n, "placed_at": later} for n in range(64)]
        self.publish(publisher, "orders", ticks)
        paid = [{"order_id": f"tick{n}", "paid": n, "paid_at": later} for n in range(64)]
        self.publish(publisher, "payments", paid)

    def rows(self, topic: str) -> pl.DataFrame:
        return committed_rows(self.environment, topic, self.workspace.topics[topic])

    def count(self) -> int:
        return sum(records_in(self.environment.log, topic) for topic in OUTPUTS)

    # What must be there

    def check_paid_orders(self) -> None:
        """Each order with each of its payments, or alone: as often as in SQL."""
        rows = self.rows("orders.paid").filter(~pl.col("order_id").str.starts_with("tick"))
        orders, payments = pl.DataFrame(self.orders), pl.DataFrame(self.paid)
        expected = duckdb.sql(
            "SELECT o.order_id, amount, paid FROM orders o LEFT JOIN payments p USING (order_id)"
        ).pl()
        assert len(orders) + len(payments), "DuckDB reads them by name"
        assert same(rows.select("order_id", "amount", "paid"), expected)

    def check_regions(self) -> None:
        """The table is what a join and a grouping of the last rows give."""
        regions = latest(self.rows("regions"), "region").sort("region")
        customers, countries = pl.DataFrame(list(self.customers.values())), pl.DataFrame(list(self.countries.values()))
        joined = customers.join(countries, on="country", how="left").filter(pl.col("region").is_not_null())
        expected = joined.group_by("region").agg(
            customers=pl.len().cast(pl.Int64), tiers=pl.col("tier").sum().cast(pl.Int64), lowest=pl.col("tier").min()
        )
        assert same(regions, expected.cast({"lowest": regions.schema["lowest"]}))

    def check_balances(self) -> None:
        """Each customer's orders were counted one by one, none twice and none left out."""
        rows = self.rows("balances").filter(pl.col("customer") != "tick")
        totals = pl.DataFrame(self.orders).group_by("customer").agg(n=pl.len(), total=pl.col("amount").sum())
        for customer, count, total in totals.iter_rows():
            mine = rows.filter(pl.col("customer") == customer)
            assert mine["orders"].to_list() == list(range(1, count + 1)), customer
            assert mine["balance"][-1] == total, customer

    def check_largest(self) -> None:
        """The table holds the first three by rank."""
        rows = latest(self.rows("orders.largest"), "customer", "rank").filter(pl.col("customer") != "tick")
        orders = pl.DataFrame(self.orders)
        expected = duckdb.sql(
            "SELECT customer, row_number() OVER (PARTITION BY customer ORDER BY amount DESC) AS rank, order_id"
            " FROM orders QUALIFY rank <= 3"
        ).pl()
        assert len(orders), "DuckDB reads it by name"
        assert same(rows.select("customer", pl.col("rank").cast(pl.Int64), "order_id"), expected)

    def check_clicks(self) -> None:
        """Each click once."""
        clicks = Counter(self.rows("clicks.once")["click_id"].to_list())
        assert clicks == Counter(f"x{chunk}_{n}" for chunk in range(CHUNKS) for n in range(50))


OUTPUTS = ("orders.paid", "regions", "balances", "orders.largest", "clicks.once")


def same(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Whether both hold the same rows, as often."""
    return left.sort(left.columns).equals(right.select(left.columns).sort(left.columns))


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_leave_no_trace_in_any_operator(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Two workers, killed four times while rows come: every output is what a recount of the input gives."""
    root = tmp_path / "shop"
    for folder in ("contracts", "pipelines"):
        (root / folder).mkdir(parents=True)
    (root / "headrace.toml").write_text(CONFIG.format(name=f"shop{os.getpid()}", bootstrap=kafka_bootstrap))
    for name, text in CONTRACTS.items():
        (root / "contracts" / f"{name}.yaml").write_text(text)
    (root / "pipelines" / "shop.py").write_text(PIPELINES)
    workspace = load(root)
    generator = random.Random(5)
    with connect(workspace.file, workspace.contracts, "kafka") as environment:
        apply_plan(make_plan(workspace, environment), workspace, environment)
        shop = Shop(environment, workspace)
        with fleet(root) as supervisor, BatchPublisher(environment, name="shop") as publisher:
            wait_until(lambda: len(worker_processes(supervisor.pid)) == 2, "two workers", timeout_s=60)
            due = [CHUNKS * share // (KILLS + 1) for share in range(1, KILLS + 1)]
            for number in range(CHUNKS):
                shop.publish_chunk(publisher, number)
                if number in due:
                    os.kill(generator.choice(worker_processes(supervisor.pid)), signal.SIGKILL)
                time.sleep(0.4)
            shop.publish_end(publisher)
            wait_until(lambda: records_in(environment.log, "orders.paid") >= ORDERS, "the orders", timeout_s=240)
            quiet_since, before = time.monotonic(), shop.count()
            while time.monotonic() - quiet_since < QUIET_S:
                now = shop.count()
                if now != before:
                    quiet_since, before = time.monotonic(), now
                time.sleep(0.2)
        shop.check_paid_orders()
        shop.check_regions()
        shop.check_balances()
        shop.check_largest()
        shop.check_clicks()
