"""`docs/ingress.md` tells the truth: its examples run as they stand, its tables are complete, its numbers right."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from headrace.ingress import batch_publisher, publisher
from headrace.ingress.cdc.config import CdcConfig, MysqlCdcConfig, OutboxConfig, PostgresCdcConfig, SqliteCdcConfig
from headrace.ingress.cdc.postgres import outbox
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.ingress.cdc.sqlite import SqliteCdc
from headrace.ingress.config import load_ingress
from headrace.ingress.outbox_table import DEFAULT_TABLE, quoted_name, table_statement
from headrace.testing.sink_harness import wait_until
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import Environment, connect
from headrace.workspace.load import Workspace, load
from headrace.workspace.overview import topic_rows
from headrace.workspace.plan import make_plan
from headrace.workspace.plan_connectors import open_ingress
from tests.ingress.postgres.bank import Bank
from tests.ingress.postgres.conftest import bank as bank

PAGE = (Path(__file__).parents[2] / "docs" / "ingress.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
INGRESS, CONTRACT, POSTGRES, OUTBOX, MYSQL = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ORDERS = "topic: orders.placed\nowner: orders\nkey: order_id\nfields: {order_id: string, amount: double}\n"


def workspace(root: Path, files: dict[str, str]) -> None:
    for name, text in {"headrace.toml": 'name = "shop"\n', **files}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    loaded = load(root)
    with connect(loaded.file, loaded.contracts) as environment:
        apply_plan(make_plan(loaded, environment), loaded, environment)


@pytest.mark.parametrize(
    ("example", "records", "said"),
    [
        (0, 1, ""),
        (1, 1_000, "orders.placed amount is str, not double\n"),
        (2, 1, "['RecordMetadata', 'ContractViolation']\n"),
    ],
)
def test_python_examples_run(tmp_path: Path, example: int, records: int, said: str) -> None:
    """Each one, as a service would run it in the folder of a workspace: what it publishes is there."""
    workspace(tmp_path, {"contracts/orders.yaml": ORDERS})
    environment = {name: value for name, value in os.environ.items() if name != "HEADRACE_ENV"}
    done = subprocess.run(
        [sys.executable, "-c", PYTHON[example]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    loaded = load(tmp_path)
    with connect(loaded.file, loaded.contracts) as opened:
        (row,) = [each for each in topic_rows(loaded, opened) if each.topic == "orders.placed"]
    assert row.records == records


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_the_outbox_of_the_page_publishes(tmp_path: Path, bank: Bank) -> None:
    """Both services and the ingress of the page as they stand: their events are in the topic."""
    bank.execute("CREATE TABLE orders (order_id text PRIMARY KEY, amount double precision)")
    parts = psycopg.conninfo.conninfo_to_dict(bank.url)
    url = f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{bank.database}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_DATABASE", url)
        patch.delenv("HEADRACE_ENV", raising=False)
        workspace(tmp_path, {"contracts/orders.yaml": ORDERS, "ingress/outbox.yaml": OUTBOX})
        for example in PYTHON[3:]:
            subprocess.run([sys.executable, "-c", example], cwd=tmp_path, timeout=60, check=True)
        loaded = load(tmp_path)
        with connect(loaded.file, loaded.contracts) as environment, closing(opened(loaded, environment)) as cdc:
            wait_until(lambda: cdc.step() == 0 and cdc.counters.transactions > 1, "the events are published")
            (row,) = [each for each in topic_rows(loaded, environment) if each.topic == "orders.placed"]
            cdc.close()
            cdc.teardown()
    assert (row.records, cdc.counters.dead_letters) == (4, 0)


def opened(loaded: Workspace, environment: Environment) -> PostgresCdc:
    """The only ingress."""
    (config,) = loaded.ingress
    cdc = open_ingress(config, loaded, environment)
    assert isinstance(cdc, PostgresCdc)
    return cdc


def test_the_outbox_of_the_page_is_that_of_the_code() -> None:
    """Its statement, its keys, how much is removed at a time."""
    statement, _ = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert statement.split() == f"{table_statement(quoted_name(DEFAULT_TABLE))};".split()
    for name, each in OutboxConfig.model_fields.items():
        default = f"{each.default:,}" if type(each.default) is int else each.default
        assert re.search(
            rf"^\|`{name}`\|.*\|`?{'required' if each.is_required() else default}`?\|$", PAGE, re.MULTILINE
        )
    assert f"{outbox.PRUNE_ROWS_MAX:,} at a time" in PAGE


def test_there_are_examples() -> None:
    """Or the test above would leave some out."""
    assert len(PYTHON) == 5


def test_the_ingress_of_the_page_captures(tmp_path: Path) -> None:
    """Its file and contract, with such a table: applied and stepped, every row is in the topic."""
    with sqlite3.connect(tmp_path / "shop.db") as source:
        source.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price NUMERIC)")
        source.execute("INSERT INTO items VALUES (1, 'tea', 2.5), (2, 'cup', NULL)")
    workspace(tmp_path, {"contracts/items.yaml": CONTRACT, "ingress/shop.yaml": INGRESS})
    loaded = load(tmp_path)
    (config,) = loaded.ingress
    assert isinstance(config, SqliteCdcConfig)
    with connect(loaded.file, loaded.contracts) as environment:
        cdc = SqliteCdc(config, environment.log, environment.registry, loaded.contracts, workspace="shop")
        wait_until(lambda: cdc.step() == 0, "nothing is left")
        cdc.close()
        assert (cdc.counters.snapshot_rows, cdc.counters.dead_letters) == (2, 0)


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("## From a SQLite database", SqliteCdcConfig),
        ("## From a PostgreSQL database", PostgresCdcConfig),
        ("## From a MySQL or MariaDB database", MysqlCdcConfig),
    ],
)
def test_every_key_is_documented_with_its_default(section: str, model: type[CdcConfig]) -> None:
    """The table of the ingress file is the model's."""
    text = PAGE.partition(section)[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\|(`.*?)\|.*\|(.*?)\|$", text, re.MULTILINE))
    documented = {name: default for names, default in rows.items() for name in re.findall(r"`(\w+)`", names)}
    fields = {name: each for name, each in model.model_fields.items() if not each.exclude}
    assert set(fields) <= set(documented)
    for name, each in fields.items():
        if type(each.default) is int:
            assert documented[name] == f"{each.default:,}"


@pytest.mark.parametrize(
    ("example", "model", "topics"),
    [
        (POSTGRES, PostgresCdcConfig, ("shop.items", "stock.places")),
        (MYSQL, MysqlCdcConfig, ("till.items", "till.places")),
    ],
)
def test_the_ingress_of_a_server_on_the_page_is_read(
    tmp_path: Path, example: str, model: type[CdcConfig], topics: tuple[str, ...]
) -> None:
    """Its file as it stands; the database is what the environment says."""
    path = tmp_path / "ingress" / "shop.yaml"
    path.parent.mkdir()
    path.write_text(example)
    config = load_ingress(path)
    assert isinstance(config, model)
    assert config.topics == topics


def test_numbers_are_those_of_the_code() -> None:
    """Bounds of queue and batch, linger, patience."""
    assert f"{publisher.QUEUE_RECORDS_MAX:,} waiting records or\n  {publisher.QUEUE_BYTES_MAX >> 20} MiB" in PAGE
    assert f"`linger_ms` ({publisher.LINGER_MS}), at {publisher.BATCH_RECORDS_MAX:,}\n" in PAGE
    assert f"records or {publisher.BATCH_BYTES_MAX >> 20} MiB" in PAGE
    assert batch_publisher.DELIVERY_TIMEOUT_S == 120
    assert "two\nminutes" in PAGE
