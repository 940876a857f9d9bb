"""Queryable tables of a fleet on a real broker: every key asked at every worker, while partitions move as well."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.faults.brokers import own_broker

from headrace.engine.contact import SILENCE_MAX_S
from headrace.testing.server_process import free_ports

from .conftest import Call, spawn

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.xdist_group("tables"), pytest.mark.timeout(240)]

HOST = "127.0.0.1"
CONFIG = """
name = "{name}"

[environments.dev]
log = "kafka"
bootstrap_servers = "{bootstrap}"
partitions = 6
"""
ORDERS = """
topic: {name}.orders
owner: shop
key: customer
time: placed_at
fields:
  order_id:  long
  customer:  string
  product:   long
  amount:    decimal(12,2)
  placed_at: timestamp-millis
"""
PIPELINE = '''
import headrace as hr
from headrace import col


@hr.pipeline(owner="shop", name="{name}")
def shop():
    """Revenue by customer, where the orders lie; orders by product, moved there; open hours of both."""
    orders = hr.stream("{name}.orders")
    customers = orders.group_by("customer").agg(orders=hr.count(), revenue=hr.sum("amount"))
    return (
        customers.with_columns(big=col("orders") > 3).rename({{"customer": "who"}}).to("{name}.customers"),
        orders.group_by("product").agg(orders=hr.count()).to("{name}.products"),
        orders.group_by("product", "customer").window(hr.tumbling("1h")).agg(orders=hr.count()).to(
            "{name}.hours", emit="final"
        ),
    )
'''
CUSTOMERS = [f"Ana & Söhne/{number}" for number in range(12)]
PRODUCTS = 8
FIRST_MS = 1_767_225_600_000
HOURS = ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"]


WAIT_MAX_S = 120.0


def until(condition: Callable[[], bool], what: str, seen: Callable[[], Any] = lambda: "") -> None:
    deadline = time.monotonic() + WAIT_MAX_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {WAIT_MAX_S:g} s: {seen()}"
        time.sleep(0.2)


@dataclass(frozen=True)
class Reply:
    """What a worker said; status 0 when it could not be reached."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def sure(port: int, path: str) -> Reply:
    """What a worker says when it is sure: 503 is asked again."""
    deadline = time.monotonic() + 30
    while (reply := get(port, path)).status == 503 and time.monotonic() < deadline:
        time.sleep(float(reply.headers["Retry-After"]) / 2)
    return reply


def get(port: int, path: str) -> Reply:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=20) as answer:
            return Reply(answer.status, json.load(answer), dict(answer.headers))
    except urllib.error.HTTPError as error:
        return Reply(error.code, json.load(error), dict(error.headers))
    except OSError:
        return Reply(0)


@dataclass
class Shop:
    """A workspace on a broker, and what its tables must say."""

    folder: Path
    name: str
    call: Call
    port: int
    orders: list[dict[str, Any]] = field(default_factory=list)
    status: Any = None

    @property
    def here(self) -> tuple[str, ...]:
        return ("--workspace", str(self.folder))

    def publish(self, count: int) -> None:
        """More orders: of every customer, every product and both hours."""
        first = len(self.orders)
        came = [order(number) for number in range(first, first + count)]
        path = self.folder / "orders.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in came))
        assert self.call("publish", f"{self.name}.orders", "--file", str(path), *self.here).code == 0
        self.orders += came

    def is_caught_up(self) -> bool:
        answer = self.call("status", "--json", *self.here)
        (self.status,) = [each for each in answer.json["components"] if each["name"] == self.name]
        return bool(self.status["state"] == "running" and self.status["lag_records"] == 0)

    def catch_up(self) -> None:
        until(self.is_caught_up, "catching up", lambda: self.status)

    # The oracle

    def customers(self) -> dict[str, dict[str, Any]]:
        counts, cents = Counter[str](), Counter[str]()
        for each in self.orders:
            counts[each["customer"]] += 1
            cents[each["customer"]] += round(float(each["amount"]) * 100)
        return {
            who: {"who": who, "orders": n, "revenue": f"{cents[who] / 100:.2f}", "big": n > 3}
            for who, n in counts.items()
        }

    def products(self) -> dict[int, dict[str, Any]]:
        counts = Counter(each["product"] for each in self.orders)
        return {product: {"product": product, "orders": n} for product, n in counts.items()}

    def hours(self) -> dict[tuple[int, str], dict[str, int]]:
        found: dict[tuple[int, str], Counter[str]] = {}
        for each in self.orders:
            hour = each["placed_at"][:13] + ":00:00Z"
            found.setdefault((each["product"], each["customer"]), Counter())[hour] += 1
        return {key: dict(hours) for key, hours in found.items()}


def order(number: int) -> dict[str, Any]:
    """Hours alternate by an hour's distance, within the grace of nobody: time never passes the first hour's end."""
    return {
        "order_id": number,
        "customer": CUSTOMERS[number % len(CUSTOMERS)],
        "product": number * 7 % PRODUCTS - 2,
        "amount": f"{number % 9}.{number % 100:02d}",
        "placed_at": f"2026-01-01T00:{number % 60:02d}:00.000Z",
    }


def address(table: str, key: str) -> str:
    return f"/tables/{table}/{urllib.parse.quote(key, safe='')}"


@pytest.fixture
def shop(tmp_path: Path, call: Call, kafka_bootstrap: str) -> Shop:
    return made_shop(tmp_path, call, kafka_bootstrap)


def made_shop(tmp_path: Path, call: Call, bootstrap: str) -> Shop:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    files = {"headrace.toml": CONFIG, "contracts/orders.yaml": ORDERS, "pipelines/shop.py": PIPELINE}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text.format(name=name, bootstrap=bootstrap).lstrip())
    made = Shop(tmp_path, name, call, port=_two_ports())
    assert call("apply", *made.here).code == 0
    return made


def _two_ports() -> int:
    """The first of two free ports side by side."""
    for _ in range(50):
        (port,) = free_ports(1)
        try:
            with socket_at(port + 1):
                return port
        except OSError:
            continue
    raise AssertionError("no two free ports side by side")


@contextmanager
def socket_at(port: int) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind((HOST, port))
        yield


@contextmanager
def running(shop: Shop, workers: int) -> Iterator[subprocess.Popen[str]]:
    started = spawn("run", "--workers", str(workers), "--http-port", str(shop.port), *shop.here, cwd=shop.folder)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.communicate(timeout=60)
        finally:
            started.kill()


def owners(shop: Shop, port: int) -> set[str | None]:
    reply = get(port, "/tables")
    if reply.status != 200:
        return {None}
    return {owner for table in reply.body["tables"] for owner in table["owners"].values()}


def test_every_key_at_every_worker(shop: Shop) -> None:
    """Both workers give the oracle's row of every key, of partitioned and of moved rows, and of open windows; and they
    say the same of what is no key, no table and no row."""
    shop.publish(150)
    ports = (shop.port, shop.port + 1)
    customers, products, hours = (f"{shop.name}.{name}" for name in ("customers", "products", "hours"))
    with running(shop, 2):
        shop.catch_up()
        until(lambda: all(len(owners(shop, port)) == 2 and None not in owners(shop, port) for port in ports), "sharing")
        asked_at: Counter[str] = Counter()
        for port in ports:
            for who, row in shop.customers().items():
                reply = sure(port, address(customers, who))
                assert (reply.status, reply.body["rows"], reply.body["pending"]) == (200, [row], [False])
                asked_at[reply.body["instances"][0]] += 1
            for product, row in shop.products().items():
                assert sure(port, f"/tables/{products}/{product}").body["rows"] == [row]
            for (product, who), expected in shop.hours().items():
                key = urllib.parse.urlencode({"product": product, "customer": who})
                reply = sure(port, f"/tables/{hours}?{key}")
                assert {row["window_start"]: row["orders"] for row in reply.body["rows"]} == expected
                assert reply.body["pending"] == [True]
            everything = sure(port, f"/tables/{customers}?limit=1000")
            assert sorted(row["who"] for row in everything.body["rows"]) == sorted(shop.customers())
            assert (everything.body["more"], len(everything.body["instances"])) == (False, 2)
            assert len(sure(port, f"/tables/{customers}?limit=5").body["rows"]) == 5
            assert_refusals(port, customers, products, hours)
        assert len(asked_at) == 2


def assert_refusals(port: int, customers: str, products: str, hours: str) -> None:
    reply = sure(port, address(customers, "nobody"))
    assert (reply.status, reply.body["found"], reply.body["rows"]) == (404, False, [])
    expected = {
        f"/tables/{products}/ten": (400, "workspace.question_invalid"),
        f"/tables/{products}/9223372036854775808": (400, "workspace.question_invalid"),
        f"/tables/{products}?order=1": (400, "workspace.question_invalid"),
        f"/tables/{products}/1?window_start={HOURS[0]}": (400, "workspace.question_invalid"),
        f"/tables/{products}?limit=0": (400, "workspace.question_invalid"),
        f"/tables/{hours}/1": (400, "workspace.question_invalid"),
        f"/tables/{customers}s/1": (404, "workspace.table_unknown"),
    }
    for path, (status, code) in expected.items():
        reply = sure(port, path)
        assert (reply.status, reply.body["error"]["code"]) == (status, code), path
    assert f"did you mean {customers!r}?" in sure(port, f"/tables/{customers}s/1").body["error"]["cure"]


def test_answers_while_partitions_move(shop: Shop) -> None:
    """A second worker comes, records come, and the first worker is killed: each answer is a row that was committed,
    none goes back, a worker that cannot know says 503; in the end all is the oracle's again."""
    shop.publish(60)
    customers = f"{shop.name}.customers"
    ports = (shop.port, shop.port + 1)
    with running(shop, 1):
        shop.catch_up()
        first = shop.customers()
        until(
            lambda: all(rows_at(ports[0], customers, who) == [row] for who, row in first.items()), "the first answers"
        )
        with asking(customers, ports, first) as seen, running(shop, 1):
            until(lambda: len(owners(shop, ports[0])) == 2 and None not in owners(shop, ports[0]), "sharing")
            shop.publish(60)
            shop.catch_up()
            pid = worker_pid(shop, ports[0])
            os.kill(pid, signal.SIGKILL)
            final = shop.customers()

            def whole(port: int) -> bool:
                return all(rows_at(port, customers, who) == [row] for who, row in final.items())

            until(lambda: whole(ports[1]) and whole(ports[0]), "both answering again")
    assert seen.wrong == []
    assert seen.statuses[200] > len(CUSTOMERS)
    assert set(seen.statuses) <= {0, 200, 503}


def rows_at(port: int, table: str, key: str) -> Any:
    reply = get(port, address(table, key))
    return reply.body["rows"] if reply.status == 200 else None


def worker_pid(shop: Shop, port: int) -> int:
    return int(get(port, "/live").body["pid"])


@dataclass
class Seen:
    """What an asker saw: answers that went back, and how many of which status."""

    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


@contextmanager
def asking(table: str, ports: Sequence[int], first: dict[str, dict[str, Any]]) -> Iterator[Seen]:
    """Ask all the time, at both workers. A count that was committed once is never smaller again."""
    seen, over = Seen(), threading.Event()
    least = {who: int(row["orders"]) for who, row in first.items()}

    def ask() -> None:
        while not over.is_set():
            for who in CUSTOMERS:
                for port in ports:
                    reply = get(port, address(table, who))
                    seen.statuses[reply.status] += 1
                    if reply.status == 200:
                        (row,) = reply.body["rows"]
                        if row["orders"] < least[who]:
                            seen.wrong.append(f"{who}: {row['orders']} after {least[who]}")
                        least[who] = max(least[who], row["orders"])
                    elif reply.status not in (0, 503):
                        seen.wrong.append(f"{who}: {reply.status} {reply.body}")
                    elif reply.status == 503 and "Retry-After" not in reply.headers:
                        seen.wrong.append("503 without Retry-After")
            time.sleep(0.2)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield seen
    finally:
        over.set()
        asker.join()


SESSION_S = 3.0
SHORT_SESSIONS = {
    "group.consumer.session.timeout.ms": str(int(SESSION_S * 1000)),
    "group.consumer.heartbeat.interval.ms": "300",
}


def test_a_worker_that_was_stopped_gives_no_old_rows(tmp_path: Path, call: Call) -> None:
    """SIGSTOP beyond the session: the other worker takes over and goes on. When the first one comes back, questions are
    waiting for it; it gives rows as they are now, or none."""
    with own_broker(tmp_path / "kafka", SHORT_SESSIONS) as broker:
        shop = made_shop(tmp_path, call, broker.bootstrap)
        customers, ports = f"{shop.name}.customers", (shop.port, shop.port + 1)
        shop.publish(60)
        with running(shop, 2):
            shop.catch_up()
            until(lambda: len(owners(shop, ports[0])) == 2 and None not in owners(shop, ports[0]), "sharing")
            stopped = worker_pid(shop, ports[0])
            os.kill(stopped, signal.SIGSTOP)
            try:
                shop.publish(60)
                final = shop.customers()
                until(
                    lambda: all(rows_at(ports[1], customers, who) == [row] for who, row in final.items()), "taking over"
                )
                # Longer than a worker trusts what it knows.
                time.sleep(SILENCE_MAX_S)
                waiting = [asked_meanwhile(ports[0], customers, who) for who in final]
            finally:
                os.kill(stopped, signal.SIGCONT)
            found: dict[str, Any] = {}
            until(lambda: all(rows_at(ports[0], customers, who) == [row] for who, row in final.items()), "coming back")
            for who, (thread, replies) in zip(final, waiting, strict=True):
                thread.join()
                found[who] = replies
            answers = [(who, reply) for who, replies in found.items() for reply in replies]
            assert {reply.status for _, reply in answers} <= {0, 200, 503}
            assert all(reply.body["rows"] == [final[who]] for who, reply in answers if reply.status == 200)


def asked_meanwhile(port: int, table: str, who: str) -> tuple[threading.Thread, list[Reply]]:
    """A thread that asks at once, and again until a row came."""
    replies: list[Reply] = []

    def ask() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            replies.append(get(port, address(table, who)))
            if replies[-1].status == 200:
                return
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, replies
