"""The JSON of every command has the shape that docs/cli.md shows: the same fields, of the same kinds."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from headrace.cli.demo import Report
from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import CompatibilityMode
from headrace.log.port import TopicSpec
from headrace.workspace.changes import (
    AddPartitions,
    AlterTopic,
    Change,
    CreateTopic,
    RegisterSchema,
    SetCompatibility,
    SetUpIngress,
    change_json,
)
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, write_status

from .conftest import Call

PAGE = (Path(__file__).parent.parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found.group(1)


def shown(name: str, number: int = 0) -> Any:
    """A JSON example of a section, the first one by default."""
    return json.loads(re.findall(r"^```json\n(.*?)^```$", section(name), re.MULTILINE | re.DOTALL)[number])


def shape(value: Any) -> Any:
    """Fields and kinds of values; a list has the shape of its first item, null may stand for anything."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


def differences(documented: Any, actual: Any, path: str = "") -> list[str]:
    """Where the shape of an answer is not the documented one. Empty lists and nulls fit everything."""
    if documented in ("NoneType", []) or actual in ("NoneType", []):
        return []
    if isinstance(documented, dict) and isinstance(actual, dict):
        wrong = [f"{path}.{key} is on one side only" for key in documented.keys() ^ actual.keys()]
        for key in documented.keys() & actual.keys():
            wrong += differences(documented[key], actual[key], f"{path}.{key}")
        return wrong
    if isinstance(documented, list) and isinstance(actual, list):
        return differences(documented[0], actual[0], f"{path}[]")
    return [] if documented == actual else [f"{path}: documented {documented}, is {actual}"]


def assert_shown(name: str, actual: Any) -> None:
    assert differences(shape(shown(name)), shape(actual)) == []


@pytest.fixture
def sensors(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace made by `init`, with an egress; the test runs inside it."""
    monkeypatch.chdir(tmp_path)
    assert call("init", "sensors").code == 0
    monkeypatch.chdir("sensors")
    egress = "topic: rooms.temperature\nconnector: parquet\nmode: append\noptions:\n  path: rooms\n"
    (tmp_path / "sensors" / "egress").mkdir()
    (tmp_path / "sensors" / "egress" / "rooms.yaml").write_text(egress)
    return tmp_path / "sensors"


def test_differences_are_found() -> None:
    """The comparison itself sees a missing field, an added one and another kind."""
    documented = shape({"a": 1, "b": [{"c": "x"}], "d": None})
    assert differences(documented, shape({"a": 2.5, "b": [], "d": 4})) == []
    assert differences(documented, shape({"a": 1, "b": [{"c": "y", "e": 1}], "d": None})) == [
        ".b[].e is on one side only"
    ]
    assert differences(documented, shape({"a": "1", "b": None, "d": None})) == [".a: documented number, is str"]
    assert differences(documented, shape({"a": 1})) != []


def test_plan(call: Call, sensors: Path) -> None:
    """With a change, a schema, a pipeline and an egress in it; and a plan that is nothing but problems."""
    answer = call("plan", "--json").json
    assert (answer["format"], answer["exit_code"]) == (1, 2)
    assert answer["egress"]
    changed = [each for each in answer["changes"] if each["action"] == "create_topic"]
    assert_shown("plan", {**answer, "changes": [{**changed[0], "config": {"cleanup.policy": "delete"}}]})
    (sensors / "contracts" / "readings.yaml").write_text("topic: readings\nfileds: {}\n")
    broken = call("plan", "--json").json
    assert broken["problems"]
    assert_shown("plan", broken)


def test_every_action_of_a_plan_is_listed() -> None:
    """With the fields that come with it, beside those that all have."""
    schema = AvroSchema.parse('"int"')
    backward = CompatibilityMode.BACKWARD
    changes: list[Change] = [
        CreateTopic(TopicSpec("t", 1), "published"),
        AddPartitions("t", 1, 2),
        AlterTopic("t", {"retention.ms": None}, {"retention.ms": "1"}),
        SetCompatibility("t-value", backward, backward),
        RegisterSchema("t-value", schema, 1, backward),
        SetUpIngress("planes", "triggers"),
    ]
    assert {type(each) for each in changes} == set(get_args(Change))
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section("plan"), re.MULTILINE)
    common = {"action", "target", "summary"}
    listed = {action: set(re.findall(r"`(\w+)`", text)) for action, text in rows}
    assert listed == {each.action: change_json(each).keys() - common for each in changes}


def test_apply_is_the_plan_and_whether_it_was_applied(call: Call, sensors: Path) -> None:
    """True after it was, false beside the problems that kept it from being."""
    answer = call("apply", "--json").json
    assert answer.pop("applied") is True
    assert_shown("plan", {**answer, "changes": []})
    (sensors / "egress" / "rooms.yaml").write_text("topic: rooms.temperatur\nconnector: parquet\nmode: append\n")
    refused = call("apply", "--json")
    assert (refused.code, refused.json["applied"]) == (1, False)
    assert [problem["code"] for problem in refused.json["problems"]] == ["egress.invalid"]
    (sensors / "pipelines" / "rooms.py").write_text("1 / 0\n")
    broken = call("apply", "--json")
    assert (broken.code, broken.json["applied"]) == (1, False)
    assert [problem["line"] for problem in broken.json["problems"]] == [1]


def test_read(call: Call, sensors: Path) -> None:
    """One object a line; its own fields are always the same, those of key and value are the contract's."""
    (line,) = call("read", "readings", "--json", "--limit", "1").lines
    record = json.loads(line)
    documented = shown("read")
    assert differences(shape({**documented, "key": None, "value": None}), shape(record)) == []
    assert isinstance(record["key"], dict)
    assert isinstance(record["value"], dict)


def test_read_of_undecodable_records(call: Call, sensors: Path) -> None:
    """They have the same fields: bytes as text, and an error with code and message."""
    from headrace.log.columns import outgoing
    from headrace.log.embedded import EmbeddedLog

    log = EmbeddedLog(sensors / ".headrace" / "log.db")
    producer = log.producer()
    producer.produce(outgoing("readings", [b"\x00\xff"], keys=[b"k"]))
    producer.flush()
    producer.close()
    log.close()
    records = [json.loads(line) for line in call("read", "readings", "--json").lines]
    (bad,) = (record for record in records if record["error"])
    assert bad.keys() == shown("read").keys()
    assert (bad["value"], bad["error"]["code"]) == ("base64:AP8=", "decode.framing")
    assert bad["error"].keys() == {"code", "message"}


def test_status_with_and_without_workers(call: Call, sensors: Path) -> None:
    """The same fields before anything ran and while it does; null where nothing is known."""
    documented = shape(shown("status"))
    documented["components"][0]["dropped"] = shape(None)  # By step and reason, so its fields are not fixed.
    assert differences(documented, shape(call("status", "--json").json)) == []
    write_status(
        sensors,
        ComponentStatus(
            kind=ComponentKind.PIPELINE,
            name="room_temperatures",
            instance="host-0",
            environment="dev",
            state=ComponentState.RUNNING,
            started_at_ms=1_000,
            records_in=120,
            dropped={"windows:late": 3},
            tasks=("0_0", "0_1"),
            stream_time_ms=1_370_080_800_000,
        ),
    )
    answer = call("status", "--json").json
    row = answer["components"][0]
    assert (row["state"], row["instances"], row["dropped"]) == ("running", 1, {"windows:late": 3})
    assert (row["stream_time"], row["stream_time_ms"]) == ("2013-06-01T10:00:00.000Z", 1_370_080_800_000)
    assert row["watermark_delay_seconds"] > 0
    assert differences(documented, shape(answer)) == []
    assert {each["kind"] for each in answer["components"]} == {"pipeline", "egress"}


def test_every_state_is_listed() -> None:
    """What `state` may say, and nothing else."""
    (text,) = re.findall(r"^- `state`:(.*?)(?=^- )", section("status"), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([a-z ]+)`", text)) == {each.value for each in ComponentState} | {"not started"}


def test_topics_schemas_publish_and_doctor(call: Call, sensors: Path) -> None:
    """The other listings."""
    assert_shown("topics", call("topics", "--json").json)
    assert_shown("schema", call("schema", "list", "--json").json)
    assert_shown("doctor", call("doctor", "--json").json)
    (sensors / "bad.jsonl").write_text('{"sensor": "s-1"}\n')
    assert_shown("publish", call("publish", "readings", "--file", "bad.jsonl", "--json").json)


def test_schema_check(call: Call, tmp_path: Path) -> None:
    """With a reason and a warning."""
    time = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
    old = {"type": "record", "name": "R", "fields": [time]}
    finer = {**time, "type": {"type": "long", "logicalType": "timestamp-micros"}}
    new = {"type": "record", "name": "R", "fields": [finer, {"name": "b", "type": "int"}]}
    for name, schema in (("old", old), ("new", new)):
        (tmp_path / f"{name}.avsc").write_text(json.dumps(schema))
    files = (str(tmp_path / "new.avsc"), "--against", str(tmp_path / "old.avsc"))
    answer = call("schema", "check", *files, "--json")
    assert answer.code == 1
    assert answer.json["incompatibilities"]
    assert answer.json["warnings"]
    assert differences(shape(shown("schema", 1)), shape(answer.json)) == []


def test_demo() -> None:
    """The report's fields; the run itself is tested with the demo."""
    assert shown("demo").keys() == {field.name for field in fields(Report)}
