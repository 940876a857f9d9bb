"""Two workers of one workspace: an ingress and an egress run in one of them at a time, whatever dies."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.contracts.fastavro_codec import open_codec
from headrace.log.columns import batch_records, binary_column
from headrace.log.port import TopicPartition
from headrace.testing.sink_harness import wait_until
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import Environment, connect
from headrace.workspace.load import load
from headrace.workspace.plan import make_plan
from headrace.workspace.status import ComponentState, read_statuses

PARTITIONS = 2
FILES = {
    "headrace.toml": 'name = "shop"\n',
    "contracts/items.yaml": (
        "topic: items\nowner: shop\nkind: change\nkey: id\n"
        f"partitions: {PARTITIONS}\nfields: {{id: long, name: string, price: long}}\n"
    ),
    "ingress/shop.yaml": "kind: sqlite-cdc\ndatabase: shop.db\npoll_interval_ms: 10\ntables: {items: {topic: items}}\n",
    "egress/copy.yaml": (
        "topic: items\nconnector: duckdb\nmode: replicate\nbatch: {rows_max: 50, age_max_ms: 20}\n"
        "options: {path: copy.duckdb, table: items, keep_open: true}\n"
    ),
}


@contextmanager
def workspace(root: Path) -> Iterator[Environment]:
    """The files, a source database with 100 rows, everything applied."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    change(root, "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL)")
    change(root, *(f"INSERT INTO items VALUES ({number}, 'item', 0)" for number in range(100)))
    loaded = load(root)
    with connect(loaded.file, loaded.contracts) as environment:
        apply_plan(make_plan(loaded, environment), loaded, environment)
        yield environment


def change(root: Path, *statements: str) -> None:
    connection = sqlite3.connect(root / "shop.db", timeout=20)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def pids(root: Path, name: str, state: ComponentState) -> set[int]:
    """Live workers in which this component is in this state."""
    found = {each.pid for each in read_statuses(root) if each.name == name and each.state is state}
    return {pid for pid in found if Path(f"/proc/{pid}").exists()}


def envelopes(environment: Environment) -> list[dict[str, Any]]:
    """Everything in the topic but tombstones."""
    contract = environment.contracts["items"]
    consumer = environment.log.consumer()
    here = [TopicPartition("items", number) for number in range(PARTITIONS)]
    ends = consumer.end_offsets(here)
    consumer.assign(dict.fromkeys(here, -2))
    values: list[bytes] = []
    while any(consumer.position([each])[each] < end for each, end in ends.items()):
        for batch in consumer.poll(10_000, 0.1):
            values += [record.value for record in batch_records(batch) if record.value is not None]
    consumer.close()
    codec = open_codec(contract.value_schema, environment.registry, "items-value")
    rows: list[dict[str, Any]] = codec.decode(binary_column(values)).table.to_pylist()
    return rows


def delivered(root: Path, environment: Environment) -> bool:
    """Whether the egress has committed the end of the topic, and the ingress has read every change."""
    connection = sqlite3.connect(root / "shop.db")
    (last,) = connection.execute("SELECT last FROM _headrace_shop_state").fetchone()
    connection.close()
    if max((int(row["source"]["sequence"]) for row in envelopes(environment)), default=-1) < last:
        return False
    admin = environment.log.admin()
    try:
        here = [TopicPartition("items", number) for number in range(PARTITIONS)]
        committed = admin.group_offsets("shop.egress.copy")
        return all(here in committed and committed[here].offset == end for here, end in admin.end_offsets(here).items())
    finally:
        admin.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_workers_hand_over_without_gap_or_double(tmp_path: Path) -> None:
    """`headrace run --workers 2`: one captures and one writes the DuckDB file, which it never closes. The process that
    captures is killed, then the one that writes; every change is in the topic once, and the copy is the source."""
    with workspace(tmp_path) as environment:
        fleet = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "run", "--workers", "2"], cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: len(envelopes(environment)) == 100, "the snapshot is taken")
            for round_, name in enumerate(("shop", "copy")):
                running, standby = ComponentState.RUNNING, ComponentState.STANDBY
                wait_until(lambda: len(pids(tmp_path, name, running)) == 1, f"{name} runs in one worker")  # noqa: B023
                wait_until(lambda: len(pids(tmp_path, name, standby)) == 1, f"{name} waits in one")  # noqa: B023
                (active,) = pids(tmp_path, name, running)
                change(tmp_path, f"UPDATE items SET price = price + 1 WHERE id % 2 = {round_}")
                os.kill(active, signal.SIGKILL)
                change(tmp_path, f"DELETE FROM items WHERE id = {round_}", "UPDATE items SET name = name || '!'")
                wait_until(lambda: bool(pids(tmp_path, name, running) - {active}), f"another runs {name}")  # noqa: B023
            wait_until(lambda: delivered(tmp_path, environment), "everything delivered")
        finally:
            fleet.terminate()
            fleet.wait(60)
        assert fleet.returncode == 0
        rows = envelopes(environment)
    changes = [int(row["source"]["sequence"]) for row in rows if row["op"] != "r"]
    # 50 + 1 + 99 in the first round, 50 + 1 + 98 in the second: no sequence number twice, none left out.
    assert sorted(changes) == list(range(1, 300))
    assert sum(row["op"] == "r" for row in rows) == 100
    query = "SELECT id, name, price FROM items ORDER BY id"
    source = sqlite3.connect(tmp_path / "shop.db")
    with duckdb.connect(str(tmp_path / "copy.duckdb"), read_only=True) as copy:
        assert copy.execute(query).fetchall() == source.execute(query).fetchall()
    source.close()
