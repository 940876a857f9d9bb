"""An ingress from MySQL as a file of a workspace: what `plan` and `apply` say, and that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.ingress.cdc.mysql.connection import settings_of
from headrace.ingress.config import load_ingress
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.plan import make_plan
from headrace.workspace.plan_connectors import open_ingress
from tests.ingress.mysql.till import Till

INGRESS = "kind: mysql-cdc\ndatabase: ${TILL}\ntables:\n  accounts: {topic: accounts}\n"
CONTRACT = "topic: accounts\nowner: till\nkind: change\nkey: id\nfields: {id: long, owner: 'string?', cents: long}\n"


def workspace(root: Path, contract: str = CONTRACT) -> None:
    for name, text in {
        "headrace.toml": 'name = "till"\n',
        "contracts/accounts.yaml": contract,
        "ingress/till.yaml": INGRESS,
    }.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)


@pytest.mark.mariadb
@pytest.mark.xdist_group("mariadb")
def test_plan_apply_and_run(till: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made in the database; once the topics are there its rows come."""
    monkeypatch.setenv("TILL", till.url)
    root = tmp_path / "workspace"
    workspace(root)
    till.insert((1, "Ann", 5))
    loaded = load(root)
    with connect(loaded.file, loaded.contracts) as environment:
        plan = make_plan(loaded, environment)
        assert not plan.problems
        apply_plan(plan, loaded, environment)
        (config,) = loaded.ingress
        cdc = open_ingress(config, loaded, environment)
        till.drain(cdc)  # type: ignore[arg-type]
        assert (cdc.counters.snapshot_rows, cdc.counters.dead_letters) == (1, 0)
        assert cdc.status().tables == {"accounts": "accounts"}
        cdc.close()


@pytest.mark.mariadb
@pytest.mark.xdist_group("mariadb")
def test_plan_tells_what_is_wrong(till: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the code, before anything runs."""
    monkeypatch.setenv("TILL", till.url)
    root = tmp_path / "workspace"
    workspace(root, CONTRACT.replace("cents: long", "euros: long"))
    loaded = load(root)
    with connect(loaded.file, loaded.contracts) as environment:
        (problem,) = make_plan(loaded, environment).problems
    assert problem.code == "ingress.source_invalid"
    assert "has no column 'euros'" in problem.message


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("${TILL}", "mysql://me:secret@here/x"), 2, "a password does not belong in a file"),
        (("tables:", "truncates: maybe\ntables:"), 3, "'truncates': .*'write', 'skip' or 'stop'"),
        (("tables:", "server_id: 0\ntables:"), 3, "'server_id': .*greater than or equal to 1"),
        (("mysql-cdc", "mysqlcdc"), 1, "did you mean 'mysql-cdc'"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, change: tuple[str, str], line: int, message: str) -> None:
    """Each with its line; the secret is not repeated."""
    path = tmp_path / "till.yaml"
    path.write_text(INGRESS.replace(*change))
    with pytest.raises(HeadraceError, match=message) as raised:
        load_ingress(path)
    assert raised.value.where is not None
    assert raised.value.where.line == line
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["here/x", "postgresql://me@here/x", "mysql://here/x", "mysql://me@here:x/y", "mysql://me@here/x?a=b"]
)
def test_urls_that_are_none(url: str) -> None:
    """Told without the text, which may hold a password."""
    with pytest.raises(HeadraceError, match="'database' cannot be read") as raised:
        settings_of(url)
    assert "here" not in str(raised.value).replace("user@host", "")


def test_a_url_and_its_parts() -> None:
    """Names and passwords may hold any character."""
    found = settings_of("mysql://m%40e:p%2Fw@here:3307/x?ssl_ca=/ca.pem")
    assert found == {"host": "here", "port": 3307, "user": "m@e", "password": "p/w", "ssl": {"ca": "/ca.pem"}}
