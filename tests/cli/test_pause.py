"""`headrace pause` and `headrace resume` with processes at work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Call
from .test_json_shapes import differences, shape, shown
from .test_run import Sensors, drained, running, until

PIPELINE = "room_temperatures"


@pytest.fixture
def sensors(tmp_path: Path, call: Call) -> Sensors:
    folder = tmp_path / "sensors"
    assert call("init", str(folder)).code == 0
    return Sensors(folder, call)


def publish(sensors: Sensors, room: str) -> None:
    value = {"sensor": "s-9", "room": room, "measured_at": "2026-01-02T00:00:00Z", "celsius": 20.5}
    lines = (sensors.folder / "data" / "readings.jsonl").read_text().splitlines()
    row = {**json.loads(lines[0]), **{name: each for name, each in value.items() if name in json.loads(lines[0])}}
    assert sensors.call("publish", "readings", "--value", json.dumps(row), *sensors.here).code == 0


def test_a_paused_pipeline_stands_still_over_restarts(sensors: Sensors) -> None:
    """Paused: its work is committed, new records wait, it stays a member, a restarted process starts paused; resumed:
    it reads what waited."""
    with running(sensors.folder, "run", "--workers", "2") as started:
        until(lambda: sensors.component()["instances"] == 2)
        until(lambda: sensors.component()["lag_records"] == 0)
        answer = sensors.call("pause", PIPELINE, "--json", *sensors.here).json
        assert differences(shape(shown("pause")), shape(answer)) == []
        assert answer["components"][0]["late"] == []
        state = sensors.component()
        assert (state["state"], state["desired"], state["instances"]) == ("paused", "paused", 2)
        tasks = {task for worker in state["workers"] for task in worker["tasks"]}
        publish(sensors, "attic")
        until(lambda: sensors.component()["lag_records"] == 1)
        assert drained(started) == 0
    with running(sensors.folder, "run", "--workers", "1") as started:
        until(lambda: sensors.component()["instances"] == 1)
        until(lambda: {*sensors.component()["workers"][0]["tasks"]} == tasks)
        until(lambda: sensors.component()["state"] == "paused")
        # What came with the assignment waits in memory; nothing is processed.
        state = sensors.component()
        assert (state["lag_records"], state["records_out"]) == (1, 0)
        assert sensors.call("resume", PIPELINE, *sensors.here).code == 0
        until(lambda: sensors.component()["lag_records"] == 0)
        assert sensors.component()["state"] == "running"
        assert drained(started) == 0


def test_an_order_needs_no_process(sensors: Sensors) -> None:
    """Nothing runs: the order is kept and shown; a name that nothing has is refused."""
    assert "was running" in sensors.call("pause", PIPELINE, *sensors.here).out
    assert "as before" in sensors.call("pause", PIPELINE, *sensors.here).out
    assert sensors.component()["desired"] == "paused"
    assert "(to be paused)" in sensors.call("status", *sensors.here).out
    assert "workspace.unknown_name" in sensors.call("pause", "room_temperature", *sensors.here).err
    assert "was paused" in sensors.call("resume", PIPELINE, *sensors.here).out
    assert sensors.component()["desired"] == "running"
