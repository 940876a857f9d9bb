"""`headrace egress` and `headrace connector`: what they say, and that they change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.log.embedded import EmbeddedLog
from headrace.testing.sink_suite import Faulty
from headrace.workspace import egress_trials
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace_duckdb import DuckDbConnector

from .conftest import Call
from .test_json_shapes import differences, section, shape, shown

EGRESS = """
topic: readings
connector: duckdb
mode: upsert
options: {path: rooms.duckdb, table: rooms}
columns: [sensor, celsius]
"""


@pytest.fixture
def sensors(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace made by `init`, whose sample goes to a DuckDB table; the test runs inside it."""
    monkeypatch.chdir(tmp_path)
    assert call("init", "sensors").code == 0
    monkeypatch.chdir("sensors")
    folder = tmp_path / "sensors"
    (folder / "egress").mkdir()
    (folder / "egress" / "rooms.yaml").write_text(EGRESS)
    return folder


def everything(folder: Path) -> tuple[set[Path], set[str], set[str]]:
    """Files beside the log, topics and groups."""
    loaded = load(folder)
    with connect(loaded.file, loaded.contracts, None) as environment:
        admin = environment.log.admin()
        try:
            topics, groups = set(admin.topics()), admin.group_offsets("sensors.egress.rooms")
        finally:
            admin.close()
    files = {path for path in folder.rglob("*") if ".headrace" not in path.parts and "__pycache__" not in path.parts}
    return files, topics, {str(each) for each in groups}


def test_validate_asks_the_target_and_changes_nothing(call: Call, sensors: Path) -> None:
    """A target that is not there yet, one that fits, one that does not, a file that is none, a file with a mistake."""
    before = everything(sensors)
    answer = call("egress", "validate")
    assert (answer.code, "ok" in answer.out) == (0, True)
    assert everything(sensors) == before
    with duckdb.connect("rooms.duckdb") as connection:
        connection.execute("CREATE TABLE rooms (sensor VARCHAR)")
    assert call("egress", "validate", "rooms").code == 0
    with duckdb.connect("rooms.duckdb") as connection:
        assert [row[0] for row in connection.execute("DESCRIBE rooms").fetchall()] == ["sensor"]
        connection.execute("ALTER TABLE rooms ADD COLUMN celsius VARCHAR")
    refused = call("egress", "validate", "--json")
    assert refused.code == 1
    (problem,) = refused.json["egress"][0]["problems"]
    assert "column 'celsius' is" in problem
    assert differences(shape(shown("egress")), shape(refused.json)) == []
    Path("rooms.duckdb").write_text("not a database, but long enough to be taken for one at first sight")
    assert "not a valid DuckDB database" in call("egress", "validate").out
    (sensors / "egress" / "rooms.yaml").write_text(EGRESS + "truncate: apply\n")
    assert "`truncate: apply` asks for what mode 'upsert' cannot do" in call("egress", "validate").out
    assert call("egress", "validate", "room").code == 1


def test_a_connector_that_cannot_look_says_so(call: Call, sensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is checked all the same, and a dry run shows rows alone."""
    plain = Faulty(DuckDbConnector(), lambda moment: None)
    monkeypatch.setattr(egress_trials, "load_connector", lambda name, where: plain)
    assert "file ok; its connector cannot look at the target" in call("egress", "validate").out
    answer = call("egress", "dry-run", "rooms", "--json").json
    assert (answer["statements"], answer["rows"]) == ([], 240)


def test_dry_run_shows_what_would_be_written(call: Call, sensors: Path) -> None:
    """Statements, counts and the first rows, from where the egress stands; nothing is made and no position moves."""
    before = everything(sensors)
    answer = call("egress", "dry-run", "rooms", "--rows", "3", "--json")
    assert answer.code == 0
    made = answer.json
    assert (made["records"], made["rows"], made["dead_letters"]) == (240, 240, {})
    assert all(statement.startswith('MERGE INTO "main"."rooms"') for statement in made["statements"])
    assert [sorted(row) for row in made["sample"]] == [["celsius", "operation", "sensor"]] * 3
    assert differences(shape(shown("egress", 1)), shape(made)) == []
    text = call("egress", "dry-run", "rooms", "--records", "100").out
    assert "100 records: 100 rows, 0 deletions" in text
    assert "MERGE INTO" in text
    assert everything(sensors) == before


def test_what_a_dry_run_shows_is_bounded(call: Call, sensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches the records come in and however long lines and values are: the first lines, how many are
    left out, and the beginning of what is long."""

    def explain(self: DuckDbConnector, config: object, contract: object, batch: object) -> list[str]:
        return ["x" * 900] * 7

    class FewAtATime:
        """A consumer whose polls give five records."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def poll(self, records_max: int, timeout_s: float) -> Any:
            return self._inner.poll(min(5, records_max), timeout_s)

    consumer = EmbeddedLog.consumer
    monkeypatch.setattr(EmbeddedLog, "consumer", lambda *a, **b: FewAtATime(consumer(*a, **b)))
    monkeypatch.setattr(DuckDbConnector, "explain", explain)
    made = call("egress", "dry-run", "rooms", "--json").json
    assert made["records"] == 240
    assert sum(map(len, made["statements"])) <= egress_trials.STATEMENT_CHARACTERS_MAX
    assert len(made["statements"]) == egress_trials.STATEMENT_CHARACTERS_MAX // 900
    assert made["statements_left_out"] == 7 * 48 - len(made["statements"])
    assert f"-- and {made['statements_left_out']:,} more lines" in call("egress", "dry-run", "rooms").out
    monkeypatch.setattr(DuckDbConnector, "explain", lambda *_: ["y" * 50_000, "z"])
    (long,) = call("egress", "dry-run", "rooms", "--records", "5", "--json").json["statements"]
    assert 20_000 < len(long) < 20_100
    monkeypatch.setattr(DuckDbConnector, "explain", lambda *_: ["w"])
    assert len(call("egress", "dry-run", "rooms", "--json").json["statements"]) == 48


def test_long_values_of_a_dry_run_are_cut(call: Call, sensors: Path) -> None:
    """Half a megabyte in a column, and characters that would steer a terminal."""
    (row, *_) = (json.loads(line) for line in Path("data/readings.jsonl").read_text().splitlines())
    for sensor in ("s" * 500_000, "\x1b[2J"):
        assert call("publish", "readings", "--value", json.dumps({**row, "sensor": sensor})).code == 0
    made = call("egress", "dry-run", "rooms", "--rows", "1000", "--json").json
    assert max(len(each["sensor"]) for each in made["sample"]) < 600
    text = call("egress", "dry-run", "rooms", "--rows", "1000").out
    assert "\x1b" not in text
    assert len(text) < 200_000


def test_connectors_are_listed(call: Call) -> None:
    """With modes, guarantee, tasks and package."""
    listed = call("connector", "list", "--json").json
    assert {"duckdb", "parquet"} <= {each["name"] for each in listed["connectors"]}
    assert differences(shape(shown("connector")), shape(listed)) == []
    (duckdb,) = [line for line in call("connector", "list").out.splitlines() if line.startswith("duckdb")]
    assert duckdb.split()[-4:-1] == ["exactly_once", "one", "headrace-duckdb"]


def test_a_connector_is_begun(call: Call, tmp_path: Path) -> None:
    """The folder is named for it; a second time it is refused."""
    answer = call("connector", "new", "my-queue", "--directory", str(tmp_path))
    assert answer.code == 0
    assert (tmp_path / "headrace-my-queue" / "src" / "headrace_my_queue" / "connector.py").exists()
    assert "python -m pytest" in answer.out
    assert "egress.scaffold_refused" in call("connector", "new", "my-queue", "--directory", str(tmp_path)).err
    assert "`headrace connector new" in section("connector")
