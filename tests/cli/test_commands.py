"""Commands on a new workspace, as a stranger would use them."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest

from headrace.cli import init as init_module
from headrace.workspace.scaffold import SENSORS

from .conftest import Answer, Call, process, spawn


@pytest.fixture
def sensors(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace made by `init`; the test runs inside it."""
    monkeypatch.chdir(tmp_path)
    assert call("init", "sensors").code == 0
    monkeypatch.chdir("sensors")
    return tmp_path / "sensors"


def test_init_prints_what_to_do_next(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain is printed as it is to be typed, and every file of the workspace is there."""
    monkeypatch.chdir(tmp_path)
    answer = call("init", "sensors")
    assert "  cd sensors && headrace plan && headrace apply && headrace run\n" in answer.out
    assert "  headrace read rooms.temperature\n" in answer.out
    assert sorted(path.name for path in (tmp_path / "sensors").iterdir() if not path.name.startswith(".")) == [
        "README.md",
        "contracts",
        "data",
        "headrace.toml",
        "pipelines",
    ]


@pytest.mark.parametrize(("name", "says"), [("Bad Name", "cannot be the name"), ("full", "not an empty folder")])
def test_init_refuses(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    """A name that no workspace can have, and a folder with something in it, are refused and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    answer = call("init", name)
    assert answer.code == 1
    assert says in answer.err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "Bad Name").exists()


def test_plan_exit_codes(call: Call, sensors: Path) -> None:
    """0 when nothing changes, 2 when something does, 1 when something is wrong, with and without JSON."""
    assert call("plan").code == 0
    assert call("plan", "--json").json["changes"] == []
    shutil.rmtree(sensors / ".headrace")
    answer = call("plan", "--json")
    assert (answer.code, answer.json["exit_code"]) == (2, 2)
    assert {"action": "create_topic", "target": "readings"}.items() <= answer.json["changes"][0].items()
    assert call("plan").code == 2
    (sensors / "contracts" / "readings.yaml").write_text("topic: readings\nfileds: {}\n")
    broken = call("plan", "--json")
    assert (broken.code, broken.json["exit_code"]) == (1, 1)
    assert all(problem["file"].endswith("readings.yaml") for problem in broken.json["problems"])
    assert {problem["line"] for problem in broken.json["problems"]} >= {2}
    assert call("plan").code == 1


def test_plan_explains(call: Call, sensors: Path) -> None:
    """The tree names steps, keys and derived columns, as text and in JSON."""
    text = call("plan", "--explain").out
    assert "aggregate by room in windows of 1m" in text
    assert "rooms.temperature" in call("plan", "--explain", "--json").json["explain"]["room_temperatures"]


def test_apply_does_not_ask_without_a_terminal(call: Call, sensors: Path) -> None:
    """In a script `apply` just applies, says what it did, and a second one does nothing."""
    shutil.rmtree(sensors / ".headrace")
    answer = call("apply")
    assert answer.code == 0
    assert "create topic readings: done" in answer.out
    assert call("plan").code == 0
    assert call("apply").lines[-1] == "Nothing to change."
    assert call("apply", "--json").json["applied"] is True


def test_apply_of_a_broken_workspace_changes_nothing(call: Call, sensors: Path) -> None:
    """A pipeline with a mistake keeps the contracts beside it from being applied, too."""
    shutil.rmtree(sensors / ".headrace")
    file = sensors / "pipelines" / "rooms.py"
    file.write_text(file.read_text().replace('"celsius"', '"celcius"'))
    answer = call("apply")
    assert answer.code == 1
    assert "rooms.py:" in answer.err
    assert "celcius" in answer.err
    assert "Traceback" not in answer.err
    file.write_text(file.read_text().replace('"celcius"', '"celsius"'))
    assert call("topics", "--json").json["topics"][0]["exists"] is False


def test_ten_lines_by_hand(call: Call, sensors: Path) -> None:
    """A pipeline that a person adds is planned with exit code 2 and applied."""
    (sensors / "pipelines" / "hot.py").write_text(
        "import headrace as hr\n"
        "from headrace import col\n\n\n"
        '@hr.pipeline(owner="me")\n'
        "def hot():\n"
        '    return hr.stream("readings").filter(col("celsius") > 22).to("readings.hot")\n'
    )
    answer = call("plan")
    assert answer.code == 2
    assert "readings.hot" in answer.out
    assert call("apply").code == 0
    assert call("plan").code == 0


def test_read_shows_decoded_records(call: Call, sensors: Path) -> None:
    """Every sample record is there once, decoded, in the documented shape; the limit holds."""
    answer = call("read", "readings", "--json")
    rows = [json.loads(line) for line in answer.lines]
    sample = [json.loads(line) for line in (sensors / "data" / "readings.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {
        "topic",
        "partition",
        "offset",
        "timestamp",
        "timestamp_ms",
        "key",
        "value",
        "headers",
        "error",
    }
    assert sorted(str(row["value"]) for row in rows) == sorted(str(row) for row in sample)
    assert all(row["key"] == {"sensor": row["value"]["sensor"]} for row in rows)
    assert len(call("read", "readings", "--json", "--limit", "7").lines) == 7
    text = call("read", "readings", "--limit", "1")
    assert '"sensor":' in text.out


def test_read_starts_where_told(call: Call, sensors: Path) -> None:
    """Latest gives nothing, an offset skips in each partition, a time compares with the records' timestamps."""
    everything = [json.loads(line) for line in call("read", "readings", "--json", "--from-beginning").lines]
    assert call("read", "readings", "--from", "latest").out == ""
    later = [json.loads(line) for line in call("read", "readings", "--json", "--from", "5").lines]
    assert len(later) == sum(row["offset"] >= 5 for row in everything)
    assert len(call("read", "readings", "--from", "2020-01-01T00:00:00Z").lines) == len(everything)
    assert call("read", "readings", "--from", "2100-01-01").out == ""
    wrong = call("read", "readings", "--from", "yesterday")
    assert (wrong.code, "no place to start" in wrong.err) == (1, True)


def test_unknown_topic_is_told(call: Call, sensors: Path) -> None:
    """A misspelt topic is an error with the nearest name."""
    answer = call("read", "reading")
    assert answer.code == 1
    assert "did you mean 'readings'?" in answer.err


def value(celsius: object = 1.5) -> str:
    row = {"sensor": "s-9", "room": "attic", "celsius": celsius, "measured_at": "2026-01-01T00:00:00Z"}
    return json.dumps(row)


def test_publish_a_value_a_file_and_standard_input(call: Call, sensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three ways in end in the topic, and the report counts."""
    import io

    assert call("publish", "readings", "--value", value(1.0), "--json").json == {
        "topic": "readings",
        "published": 1,
        "refused": 0,
        "refusals": [],
    }
    (sensors / "two.jsonl").write_text(f"{value(2.0)}\n{value(3.0)}\n")
    assert call("publish", "readings", "--file", "two.jsonl").lines == ["readings: 2 published, 0 refused"]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{value(4.0)}\n"))
    assert call("publish", "readings").code == 0
    rows = [json.loads(line)["value"] for line in call("read", "readings", "--json").lines]
    assert sorted(row["celsius"] for row in rows if row["sensor"] == "s-9") == [1.0, 2.0, 3.0, 4.0]


def test_bad_records_are_refused_with_their_place(call: Call, sensors: Path) -> None:
    """One bad line keeps the whole file out, unless bad records are to be skipped; the exit code is 1 either way."""
    (sensors / "mixed.jsonl").write_text(f"{value(1.0)}\n{value('warm')}\n")
    answer = call("publish", "readings", "--file", "mixed.jsonl", "--json")
    assert (answer.code, answer.json["published"], answer.json["refused"]) == (1, 0, 1)
    (refusal,) = answer.json["refusals"]
    assert (refusal["line"], refusal["field"]) == (2, "celsius")
    skipped = call("publish", "readings", "--file", "mixed.jsonl", "--skip-bad")
    assert (skipped.code, skipped.lines) == (1, ["readings: 1 published, 1 refused"])
    assert "mixed.jsonl:2" in skipped.err


def test_topics(call: Call, sensors: Path) -> None:
    """Published, derived, internal and dead-letter topics are listed with their kind and count."""
    found = {row["topic"]: row for row in call("topics", "--json").json["topics"]}
    assert found["readings"] == {
        "topic": "readings",
        "kind": "event",
        "owner": "my-team",
        "partitions": 4,
        "records": 240,
        "exists": True,
    }
    assert found["room_temperatures.dlq"]["kind"] == "dead_letters"
    assert {row["kind"] for name, row in found.items() if name.endswith(".changelog")} == {"internal"}
    assert "readings" in call("topics").out
    assert "_schemas" in {row["topic"] for row in call("topics", "--all", "--json").json["topics"]}


def test_schemas(call: Call, sensors: Path) -> None:
    """Subjects are listed and shown; an unknown one is told with the nearest."""
    subjects = [row["subject"] for row in call("schema", "list", "--json").json["subjects"]]
    assert "readings-value" in subjects
    shown = call("schema", "show", "readings", "--json").json
    assert [field["name"] for field in shown["schema"]["fields"]] == ["sensor", "room", "celsius", "measured_at"]
    assert "version 1 of 1" in call("schema", "show", "readings-key").out
    unknown = call("schema", "show", "reading-value")
    assert (unknown.code, "did you mean 'readings-value'?" in unknown.err) == (1, True)
    assert call("schema", "show", "readings", "--version", "2").code == 1


def test_schema_registered_by_hand(call: Call, sensors: Path) -> None:
    """A schema file becomes a version; an incompatible one is refused with its reason."""
    (sensors / "a.avsc").write_text('{"type": "record", "name": "A", "fields": [{"name": "x", "type": "int"}]}')
    assert call("schema", "register", "a-value", "a.avsc", "--json").json["version"] == 1
    (sensors / "a.avsc").write_text('{"type": "record", "name": "A", "fields": [{"name": "y", "type": "int"}]}')
    answer = call("schema", "register", "a-value", "a.avsc")
    assert (answer.code, "y" in answer.err) == (1, True)


def test_status_before_anything_ran(call: Call, sensors: Path) -> None:
    """A pipeline that never ran has the whole topic before it and no worker."""
    (component,) = call("status", "--json").json["components"]
    assert component["name"] == "room_temperatures"
    assert component["state"] == "not started"
    assert component["lag_records"] == 240
    assert component["lag_seconds"] > 0
    assert component["workers"] == []
    assert "room_temperatures" in call("status").out


def test_doctor(call: Call, sensors: Path) -> None:
    """Everything but what is optional is well here; a broken workspace is an error and exit code 1."""
    answer = call("doctor", "--json")
    outcomes = {check["name"]: check["outcome"] for check in answer.json["checks"]}
    assert answer.code == 0
    assert {outcomes[name] for name in ("python", "disk", "workspace", "environment", "log", "registry")} == {"ok"}
    (sensors / "pipelines" / "rooms.py").write_text("import nothing_of_this_name\n")
    assert call("doctor").code == 1


def test_run_refuses_what_is_not_applied(sensors: Path) -> None:
    """An environment that lacks changes is refused with the next step and nothing else, before anything runs; so are a
    name that nothing has and a folder that is no workspace."""
    shutil.rmtree(sensors / ".headrace")
    answer = process("run", "--workers", "2", cwd=sensors)
    assert (answer.code, answer.out) == (1, "")
    assert re.fullmatch(r"error\[cli.not_applied\] environment 'dev' lacks \d+ changes .*headrace apply`\n", answer.err)
    assert not list((sensors / ".headrace").glob("status/*"))
    assert "error[workspace.unknown_name]" in process("run", "nobody", cwd=sensors).err
    assert process("run", cwd=sensors.parent).err.startswith("error[workspace.not_found]")


def test_run_waits_for_a_log_that_does_not_answer(sensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is anything to drain, SIGTERM ends it as an interrupt does, wherever its worker is."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    running = spawn("run", "--env", "prod", cwd=sensors)
    assert running.stderr is not None
    assert "kafka_unreachable" in running.stderr.readline()
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 130


def test_dev_keeps_away_from_clusters(call: Call, sensors: Path) -> None:
    """`dev` applies without asking, so it refuses an environment that is not embedded."""
    answer = call("dev", "--env", "prod")
    assert (answer.code, "cli.not_embedded" in answer.err) == (1, True)


def test_sample_is_what_the_pipeline_expects(sensors: Path) -> None:
    """The sample names every sensor, and the value that `init` prints is a record of the contract."""
    rows = [json.loads(line) for line in (sensors / "data" / "readings.jsonl").read_text().splitlines()]
    assert {row["sensor"] for row in rows} == set(SENSORS)
    assert json.loads(init_module.SAMPLE_VALUE).keys() == rows[0].keys()


def test_answers_have_no_colour_without_a_terminal(call: Call, sensors: Path) -> None:
    """Escape sequences stay out of files and pipes."""
    answers: list[Answer] = [call("plan", "--explain"), call("topics"), call("status"), call("doctor")]
    assert not any("\x1b" in answer.out + answer.err for answer in answers)
