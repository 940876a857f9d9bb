"""`headrace reset` with worker processes at work."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from .conftest import Call
from .test_json_shapes import differences, section, shape, shown
from .test_run import Sensors, batch_answer, drained, running, stream_answer, until

PIPELINE = "room_temperatures"


@pytest.fixture
def sensors(tmp_path: Path, call: Call) -> Sensors:
    folder = tmp_path / "sensors"
    assert call("init", str(folder)).code == 0
    return Sensors(folder, call)


def on_kafka(sensors: Sensors, call: Call) -> tuple[Sensors, str]:
    """The same workspace on the shared broker, with names of its own; and those names."""
    mine = f"w{uuid.uuid4().hex[:8]}"
    for path in [*sensors.folder.rglob("*.yaml"), *sensors.folder.rglob("*.py"), sensors.folder / "headrace.toml"]:
        text = path.read_text().replace("topic: readings", f"topic: {mine}.in").replace('"readings"', f'"{mine}.in"')
        text = text.replace(PIPELINE, mine).replace("rooms.temperature", f"{mine}.out")
        path.write_text(text.replace('name = "sensors"', f'name = "{mine}"'))
    kafka = Sensors(sensors.folder, call, "prod")
    assert call("apply", *kafka.here).code == 0
    sample = str(sensors.folder / "data" / "readings.jsonl")
    assert call("publish", f"{mine}.in", "--file", sample, *kafka.here).code == 0
    return kafka, mine


def held(component: dict[str, Any]) -> int:
    return sum(worker["keys"] for worker in component["workers"])


@pytest.mark.kafka
@pytest.mark.slow
def test_a_running_pipeline_is_reset_and_the_reset_undone(
    sensors: Sensors, call: Call, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real broker, while two processes run: results are written again, equal to the first ones; an undo brings
    state and positions back, so that nothing is read again, from local copies neither."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka_bootstrap)
    kafka, mine = on_kafka(sensors, call)
    expected = batch_answer(sensors.folder)
    with running(sensors.folder, "run", "--env", "prod", "--workers", "2") as started:
        until(lambda: len(kafka.rows(f"{mine}.out")) == 30)
        until(lambda: kafka.component(mine)["lag_records"] == 0)
        before = held(kafka.component(mine))
        assert before > 0
        answer = call("reset", mine, "--json", *kafka.here)
        assert answer.code == 0, answer.err
        assert differences(shape(shown("reset")), shape(answer.json)) == []
        assert (answer.json["phase"], answer.json["desired"]) == ("done", "running")
        until(lambda: len(kafka.rows(f"{mine}.out")) == 60)
        assert stream_answer(kafka, f"{mine}.out") == sorted([*expected, *expected])
        assert call("pause", mine, *kafka.here).code == 0
        undone = call("reset", mine, "--undo", "--json", *kafka.here)
        assert undone.code == 0, undone.err
        assert (undone.json["phase"], undone.json["desired"]) == ("undone", "paused")
        assert call("resume", mine, *kafka.here).code == 0
        until(lambda: kafka.component(mine)["state"] == "running")
        until(lambda: held(kafka.component(mine)) == before)
        until(lambda: kafka.component(mine)["lag_records"] == 0)
        assert len(kafka.rows(f"{mine}.out")) == 60
        listed = call("reset", mine, "--list", "--json", *kafka.here).json
        assert differences(shape(shown("reset", 2)), shape(listed)) == []
        assert drained(started) == 0


def test_what_would_be_done_is_shown(sensors: Sensors, call: Call) -> None:
    """`--dry-run` changes nothing and stops nobody; options that exclude each other are refused."""
    answer = call("reset", PIPELINE, "--dry-run", "--json", *sensors.here).json
    assert differences(shape(shown("reset", 1)), shape(answer)) == []
    assert {each["after"] for each in answer["positions"]} == {0}
    assert "position readings[0]: none -> 0" in call("reset", PIPELINE, "--dry-run", *sensors.here).out
    assert call("reset", PIPELINE, "--list", "--json", *sensors.here).json["resets"] == []
    assert call("reset", PIPELINE, "--undo", "--step", "x", *sensors.here).code == 2
    assert call("reset", PIPELINE, "--to-beginning", "--to-time", "2026-01-01", *sensors.here).code == 2
    assert "workspace.nothing_to_undo" in call("reset", PIPELINE, "--undo", *sensors.here).err
    assert (
        "workspace.reset_target_invalid" in call("reset", PIPELINE, "--to-offset", "readings:0=7777", *sensors.here).err
    )


def test_every_phase_is_documented() -> None:
    """docs/cli.md names each phase that a reset can be in."""
    from headrace.workspace.reset_journal import Phase

    assert [each.value for each in Phase if f"`{each.value}`" not in section("reset")] == []
