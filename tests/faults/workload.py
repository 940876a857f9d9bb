"""What the workers of a fault test work on: a workspace, and the rows that are published to it.

Owns the workspace's text, the generator of rows and the thread that publishes them.

- Two pipelines have everything a fault can hurt: rows that pass through, a function whose failures become dead letters,
  a window behind a repartition topic, a stream-table join, and a table kept by updates.
- The same seed gives the same rows in the same order. What reached the topics is what counts: the oracle reads them.
- A chunk's table changes are durable before its orders are sent, and older than all of them; so what an order finds in
  the table is a fact of the topics.
- Event time runs `EVENT_SPEED` times as fast as the clock, and windows wait `GRACE_MS`: a partition may stand still for
  45 s before a window closes without its rows.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.workspace.environment import Environment

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
EVENT_SPEED = 20
WINDOW_MS = 60_000
GRACE_MS = 900_000
CHUNK_S = 0.1
CUSTOMERS = 200
PRODUCTS = 20
LARGE = 500
BAD_SHARE = 0.01
HISTORY_CHUNKS = 10
HISTORY = timedelta(minutes=30)
"""Event time that the first rows cover, so that windows close from the first second on."""
END_AFTER = timedelta(days=1)
LOAD_PATIENCE_S = 300.0
"""How long one chunk is tried: longer than any outage of ours."""

WORKERS_ENVIRONMENT = "kafka"
DIRECT_ENVIRONMENT = "direct"
"""The test's own way to the broker, past any proxy."""

_CONFIG = """
name = "{name}"
environment = "{workers}"
{config}
[environments.{workers}]
log = "kafka"
bootstrap_servers = "{worker_bootstrap}"
partitions = {partitions}
{worker_config}
[environments.{direct}]
log = "kafka"
bootstrap_servers = "{bootstrap}"
partitions = {partitions}
"""
_CONTRACTS = {
    "orders": """
topic: PREFIX.orders
owner: shop
key: customer
key_encoding: string
partitions: PARTITIONS
time: placed_at
fields: {order_id: string, customer: string, product: string, amount: long, note: string, placed_at: timestamp-millis}
""",
    "customers": """
topic: PREFIX.customers
owner: shop
kind: table
key: customer
key_encoding: string
partitions: PARTITIONS
time: changed_at
fields: {customer: string, tier: int, changed_at: timestamp-millis}
""",
}
_PIPELINES = '''
import headrace as hr
from headrace import col


def price(row):
    """Bad notes cannot be priced."""
    if row["note"] == "bad":
        raise ValueError("no price for a bad note")
    return {"order_id": row["order_id"], "customer": row["customer"], "price": row["amount"] * 3}


@hr.pipeline(owner="shop", delivery="DELIVERY", name="PREFIX_orders")
def orders_flow():
    """Large orders, prices, and sales by product and minute."""
    orders = hr.stream("PREFIX.orders")
    large = orders.filter(col("amount") >= LARGE).select("order_id", "customer", "amount")
    large.to("PREFIX.orders.large", key="order_id")
    priced = orders.map(price, schema={"order_id": "string", "customer": "string", "price": "long"})
    priced.to("PREFIX.orders.priced", key="order_id")
    by_minute = orders.group_by("product").window(hr.tumbling("WINDOW_MSms", grace="GRACE_MSms"))
    by_minute.agg(orders=hr.count(), amount=hr.sum("amount")).to("PREFIX.sales.by_minute", emit="final")


@hr.pipeline(owner="shop", delivery="DELIVERY", name="PREFIX_customers")
def customers_flow():
    """Orders with the customer's tier, and what each customer has ordered."""
    orders = hr.stream("PREFIX.orders")
    found = orders.join(hr.table("PREFIX.customers"), on="customer", how="left")
    found.select("order_id", "customer", "amount", "tier").to("PREFIX.orders.enriched", key="order_id")
    orders.group_by("customer").agg(orders=hr.count(), amount=hr.sum("amount")).to("PREFIX.customers.totals")
'''


class Names:
    """Names of one scene's topics and pipelines: scenes share brokers."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.pipelines = (f"{prefix}_orders", f"{prefix}_customers")
        self.dead_letters = f"{prefix}_orders.dlq"

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    @property
    def sources(self) -> tuple[str, str]:
        return self.topic("orders"), self.topic("customers")


def write_workspace(
    root: Path,
    *,
    name: str,
    bootstrap: str,
    worker_bootstrap: str,
    partitions: int,
    delivery: str,
    config: str,
    worker_config: str,
    client: Mapping[str, str],
) -> None:
    """The files of the workspace. `config` goes to the top of headrace.toml, `worker_config` into the workers'
    environment, `client` into its client settings."""
    settings = "".join(f'"{key}" = "{value}"\n' for key, value in client.items())
    text = _CONFIG.format(
        name=name,
        config=config,
        workers=WORKERS_ENVIRONMENT,
        direct=DIRECT_ENVIRONMENT,
        bootstrap=bootstrap,
        worker_bootstrap=worker_bootstrap,
        partitions=partitions,
        worker_config=worker_config
        + (f"\n[environments.{WORKERS_ENVIRONMENT}.client]\n{settings}" if settings else ""),
    )
    for folder in ("contracts", "pipelines"):
        (root / folder).mkdir(parents=True)
    (root / "headrace.toml").write_text(text)
    for topic, contract in _CONTRACTS.items():
        (root / "contracts" / f"{topic}.yaml").write_text(
            contract.replace("PREFIX", name).replace("PARTITIONS", str(partitions))
        )
    pipelines = _PIPELINES.replace("PREFIX", name).replace("DELIVERY", delivery).replace("LARGE", str(LARGE))
    pipelines = pipelines.replace("WINDOW_MS", str(WINDOW_MS)).replace("GRACE_MS", str(GRACE_MS))
    (root / "pipelines" / "shop.py").write_text(pipelines)


class Rows:
    """The seeded generator: chunk after chunk of table changes and orders."""

    def __init__(self, seed: int, rows_per_chunk: int) -> None:
        self._random = random.Random(seed)
        self._rows_per_chunk = rows_per_chunk
        self._number = 0
        self.now = BEGIN
        """The event time that all rows so far are older than."""

    def chunk(self, rows: int | None = None, span: timedelta | None = None) -> dict[str, list[dict[str, Any]]]:
        """The next rows by topic, in the order in which they are to be sent."""
        span = span or timedelta(seconds=CHUNK_S * EVENT_SPEED)
        begin, self.now = self.now, self.now + span
        span_ms = int(span / timedelta(milliseconds=1))
        customers = self._random.sample(range(CUSTOMERS), 2)
        changes = [{"customer": f"c{n}", "tier": self._random.randrange(1, 9), "changed_at": begin} for n in customers]
        orders = [self._order(begin, span_ms) for _ in range(rows or self._rows_per_chunk)]
        return {"customers": changes, "orders": orders}

    def _order(self, begin: datetime, span_ms: int) -> dict[str, Any]:
        self._number += 1
        return {
            "order_id": f"o{self._number}",
            "customer": f"c{self._random.randrange(CUSTOMERS)}",
            "product": f"p{self._random.randrange(PRODUCTS)}",
            "amount": self._random.randrange(1, 1000),
            "note": "bad" if self._random.random() < BAD_SHARE else "fine",
            "placed_at": begin + timedelta(milliseconds=self._random.randrange(span_ms)),
        }

    def end(self) -> dict[str, list[dict[str, Any]]]:
        """An order of every customer a day later, so that every window before it closes."""
        self.now += END_AFTER
        orders = [self._order(self.now, 1) | {"customer": f"c{n}", "note": "fine"} for n in range(CUSTOMERS)]
        return {"orders": orders}


class Load:
    """Publishes chunks steadily on a thread of its own, until `end` or `stop`."""

    def __init__(self, environment: Environment, names: Names, *, seed: int, rate: int) -> None:
        self._names = names
        self.rows = Rows(seed, max(1, round(rate * CHUNK_S)))
        self.orders_sent = 0
        """Orders that the broker has acknowledged."""
        self._environment = environment
        self._publisher = BatchPublisher(environment, name="load")
        self._stopped, self._going, self._resting = threading.Event(), threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def start(self, history_rows: int) -> None:
        """Publish a history at once, then begin to publish steadily."""
        for _ in range(HISTORY_CHUNKS if history_rows else 0):
            self._send(self.rows.chunk(history_rows // HISTORY_CHUNKS, HISTORY / HISTORY_CHUNKS))
        self._going.set()
        self._thread.start()

    def pause(self) -> None:
        """Returns when nothing is on its way any more. Raises what went wrong."""
        self._going.clear()
        assert self._resting.wait(LOAD_PATIENCE_S) or self._error, "the load does not come to rest"
        self.check()

    def resume(self) -> None:
        self._going.set()

    def check(self) -> None:
        """Raise what the thread died of."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """The last rows: every window before them closes."""
        self.pause()
        self._send(self.rows.end())

    def stop(self) -> None:
        self._stopped.set()
        self._going.set()
        if self._thread.is_alive():
            self._thread.join()
        self._publisher.close()

    def _run(self) -> None:
        due_s = time.monotonic()
        try:
            while not self._stopped.is_set():
                if not self._going.is_set():
                    self._resting.set()
                    self._going.wait()
                    self._resting.clear()
                    due_s = time.monotonic()
                    continue
                self._send(self.rows.chunk())
                # After an outage the load goes on at its rate; it does not catch up.
                due_s = max(due_s + CHUNK_S, time.monotonic() - CHUNK_S)
                self._stopped.wait(max(0.0, due_s - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - raised by `check` on the test's thread
            self._error = error
        finally:
            self._resting.set()

    def _send(self, chunk: Mapping[str, list[dict[str, Any]]]) -> None:
        for topic, rows in chunk.items():
            self._deliver(self._names.topic(topic), rows)
        self.orders_sent += len(chunk["orders"])

    def _deliver(self, topic: str, rows: list[dict[str, Any]]) -> None:
        deadline_s = time.monotonic() + LOAD_PATIENCE_S
        while True:
            outcomes = self._publisher.publish(topic, rows)
            failed = [each for each in outcomes if isinstance(each, HeadraceError)]
            if not failed:
                return
            # Rows whose fate is unknown are sent again: the oracle counts what is in the topic.
            rows = [row for row, outcome in zip(rows, outcomes, strict=True) if isinstance(outcome, HeadraceError)]
            if time.monotonic() > deadline_s or self._stopped.is_set():
                raise failed[0]
            self._stopped.wait(0.5)
