"""`headrace resnapshot` with an ingress at work, and what `headrace status` says of one."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from tests.ingress.postgres.bank import Bank
from tests.ingress.postgres.conftest import bank as bank

from headrace.workspace.connection_components import IngressComponent
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.plan_connectors import open_ingress
from headrace.workspace.status import ComponentStatus, write_status

from .conftest import Call
from .test_run import until

CONTRACT = """\
topic: accounts
owner: bank
kind: change
key: id
fields: {id: long, owner: "string?", cents: long}
"""
INGRESS = """\
kind: postgres-cdc
database: "${BANK_DATABASE}"
tables:
  accounts: {topic: accounts}
batch_rows_max: 20
"""


@pytest.fixture
def folder(tmp_path: Path, bank: Bank, call: Call, monkeypatch: pytest.MonkeyPatch) -> Path:
    parts = psycopg.conninfo.conninfo_to_dict(bank.url)
    url = f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{bank.database}"
    monkeypatch.setenv("BANK_DATABASE", url)
    files = {"headrace.toml": f'name = "{bank.database}"\n', "contracts/a.yaml": CONTRACT, "ingress/bank.yaml": INGRESS}
    for name, text in files.items():
        (tmp_path / "w" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / name).write_text(text)
    assert call("apply", "--yes", "-w", str(tmp_path / "w")).code == 0
    return tmp_path / "w"


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_an_order_is_followed_by_who_runs_the_ingress(folder: Path, bank: Bank, call: Call) -> None:
    """Given while it runs, and while nobody did: every row comes again, once for each order. Its status tells of the
    database's log, and a table of columns that the contract does not have is read."""
    bank.insert(*((number, "o", 0) for number in range(50)))
    here = ("-w", str(folder))
    assert call("resnapshot", "bank", "account", *here).err.count("did you mean 'accounts'") == 1
    assert call("resnapshot", "bnk", "accounts", *here).code != 0
    assert "accounts will be read again" in call("resnapshot", "bank", "accounts", *here).out
    loaded = load(folder)
    (config,) = loaded.ingress
    statuses: list[ComponentStatus] = []

    def report(status: ComponentStatus) -> None:
        statuses.append(status)
        write_status(folder, status)

    with connect(loaded.file, loaded.contracts) as environment:
        component = IngressComponent(config, loaded, environment, "i-0")
        stop = threading.Event()
        thread = threading.Thread(target=component.run, args=(stop, report))
        thread.start()
        try:
            until(lambda: bool(statuses) and statuses[-1].records_out == 100)
            answer = call("resnapshot", "bank", "accounts", "--json", *here).json
            assert (answer["ingress"], answer["tables"]) == ("bank", ["accounts"])
            until(lambda: statuses[-1].records_out == 150)
            until(lambda: statuses[-1].source_log is not None)
            said = call("status", *here)
        finally:
            stop.set()
            thread.join()
        assert "MB behind its database, which keeps" in said.err + said.out
        with closing(open_ingress(config, loaded, environment)) as cdc:
            assert cdc.position is not None
            assert cdc.position.open_snapshots == ()
            cdc.teardown()
    assert statuses[-1].records_out == 150


def test_other_databases_take_no_such_order(tmp_path: Path, call: Call) -> None:
    """SQLite's capture has snapshots at its beginning alone."""
    (tmp_path / "ingress").mkdir()
    (tmp_path / "contracts").mkdir()
    (tmp_path / "headrace.toml").write_text('name = "bank"\n')
    (tmp_path / "contracts" / "a.yaml").write_text(CONTRACT)
    text = "kind: sqlite-cdc\ndatabase: a.db\ntables:\n  accounts: {topic: accounts}\n"
    (tmp_path / "ingress" / "bank.yaml").write_text(text)
    answer = call("resnapshot", "bank", "accounts", "-w", str(tmp_path))
    assert answer.code != 0
    assert "does not read from PostgreSQL" in answer.err
