"""Ingress, pipelines and egress meet only in topics: each of them may go, the others run on, and it catches up."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from headrace.engine.metrics import EngineMetrics
from headrace.workspace.apply import apply_plan
from headrace.workspace.components import components
from headrace.workspace.control import open_control
from headrace.workspace.plan import make_plan
from headrace.workspace.serving import Measured, answering

from .conftest import WriteWorkspace
from .test_reset import TABLE, Fleet, Shop, orders_counted, until

PARQUET = "topic: {topic}\nconnector: parquet\nmode: append\nbatch: {{age_max_ms: 20}}\noptions: {{path: out}}\n"
FILES = {
    "contracts/items.yaml": "topic: items\nowner: shop\nkind: change\nkey: id\nfields: {id: long, name: string}\n",
    "ingress/items.yaml": (
        "kind: sqlite-cdc\ndatabase: shop.db\npoll_interval_ms: 10\ntables: {items: {topic: items}}\n"
    ),
    "pipelines/totals.py": TABLE.replace("{column}", ""),
    "egress/items_out.yaml": PARQUET.format(topic="items"),
    "egress/orders_out.yaml": PARQUET.format(topic="orders"),
}
REMOVED = [name for name in FILES if not name.startswith("contracts")]


@pytest.fixture
def shop(write_workspace: WriteWorkspace, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Changes of a database to files; orders to files, and to totals of customers."""
    folder = write_workspace(**FILES)
    monkeypatch.chdir(folder)
    change(folder, "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    return Shop(folder)


def change(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "shop.db", timeout=20)
    with connection:
        connection.execute(statement)
    connection.close()


def act(shop: Shop, number: int) -> None:
    """Something happens in the world: an item in the database, an order."""
    change(shop.folder, f"INSERT INTO items VALUES ({number}, 'item')")
    shop.publish(range(number, number + 1))


def rows(shop: Shop, topic: str) -> int:
    """Rows in the target."""
    files = (shop.folder / "out" / topic).glob("*/*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)


def totals(shop: Shop) -> int:
    """Orders in the derived topic."""
    return sum(orders_counted(shop).values())


def applied(shop: Shop) -> None:
    workspace, environment = shop.opened()
    apply_plan(make_plan(workspace, environment), workspace, environment)


def test_each_of_them_may_go_and_come_back(shop: Shop) -> None:
    """The first round runs all of them. Then each file is taken away in turn: what does not hang on it goes on with new
    rows, and when it is back nothing is missing and nothing is there twice."""
    done: dict[str, Callable[[], int]] = {
        "items": lambda: rows(shop, "items"),
        "orders": lambda: rows(shop, "orders"),
        "totals": lambda: totals(shop),
    }
    stopped_by = {
        "ingress/items.yaml": "items",
        "pipelines/totals.py": "totals",
        "egress/items_out.yaml": "items",
        "egress/orders_out.yaml": "orders",
    }
    act(shop, 0)
    with Fleet(shop):
        until(lambda: [each() for each in done.values()] == [1, 1, 1])
    for number, name in enumerate(REMOVED, 1):
        gone = shop.folder / name
        text = gone.read_text()
        gone.unlink()
        runs_on = [each for what, each in done.items() if what != stopped_by[name]]
        act(shop, number)
        with Fleet(shop):
            until(lambda counts=runs_on, expected=number + 1: all(each() == expected for each in counts))
        if name != "pipelines/totals.py":
            assert done[stopped_by[name]]() == number, name
        gone.write_text(text)
        applied(shop)
        with Fleet(shop):
            until(lambda expected=number + 1: [each() for each in done.values()] == [expected] * 3)


def test_egress_of_a_process_share_their_metrics(shop: Shop) -> None:
    """Served once, whatever number of egress there is, with a sample for each that runs."""
    workspace, environment = shop.opened()
    applied(shop)
    with open_control(environment) as control:
        chosen = components(workspace, environment, "host-0", control=control)
        with answering(0, workspace, environment, "host-0", control, chosen, EngineMetrics()):
            registries = {each.registry for each in chosen if isinstance(each, Measured)}
            (registry,) = registries
    act(shop, 0)
    with Fleet(shop) as fleet:
        until(lambda: rows(shop, "orders") == 1)
        (registry,) = {each.registry for each in fleet.runtime.components if isinstance(each, Measured)}
        of = {"name": "orders_out", "connector": "parquet"}
        until(lambda: registry.get_sample_value("headrace_egress_rows_total", {**of, "outcome": "written"}) == 1)
