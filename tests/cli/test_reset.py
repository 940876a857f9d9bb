"""`headrace reset` with worker processes at work."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .conftest import Answer, Call
from .test_json_shapes import differences, section, shape, shown
from .test_run import Sensors, drained, running, until

PIPELINE = "room_temperatures"


@pytest.fixture
def sensors(tmp_path: Path, call: Call) -> Sensors:
    folder = tmp_path / "sensors"
    assert call("init", str(folder)).code == 0
    return Sensors(folder, call)


COUNTS = """
import headrace as hr


@hr.pipeline(owner="test")
def {name}():
    return hr.stream("{name}.in").group_by("room").agg(readings=hr.count()).to("{name}.out")
"""


class Counting:
    """A workspace on the shared broker, with names of its own, that counts the readings of each room."""

    def __init__(self, sensors: Sensors, call: Call) -> None:
        self.name = f"w{uuid.uuid4().hex[:8]}"
        self.sensors = Sensors(sensors.folder, call, "prod")
        self.sample = (sensors.folder / "data" / "readings.jsonl").read_text().splitlines()
        for path in [*sensors.folder.rglob("*.yaml"), sensors.folder / "headrace.toml"]:
            text = path.read_text().replace("topic: readings", f"topic: {self.name}.in")
            path.write_text(text.replace('name = "sensors"', f'name = "{self.name}"'))
        for path in (sensors.folder / "pipelines").glob("*.py"):
            path.unlink()
        (sensors.folder / "pipelines" / "counts.py").write_text(COUNTS.format(name=self.name))
        self.do("apply")
        self.publish(self.sample)

    def do(self, *words: str) -> Answer:
        answer = self.sensors.call(*words, *self.sensors.here)
        assert answer.code == 0, answer.err
        return answer

    def publish(self, lines: list[str]) -> None:
        file = self.sensors.folder / "lines.jsonl"
        file.write_text("\n".join(lines))
        self.do("publish", f"{self.name}.in", "--file", str(file))

    def component(self) -> dict[str, Any]:
        return self.sensors.component(self.name)

    def counts(self) -> dict[str, int]:
        """The newest row of each room."""
        return {row["room"]: row["readings"] for row in self.sensors.rows(f"{self.name}.out")}

    def has_settled(self, times: int) -> bool:
        """Everything is read, and each reading was counted so many times."""
        expected = Counter(json.loads(line)["room"] for line in self.sample * times)
        return self.component()["lag_records"] == 0 and self.counts() == expected


@pytest.mark.kafka
@pytest.mark.slow
def test_a_running_pipeline_is_reset_and_the_reset_undone(
    sensors: Sensors, call: Call, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real broker, while two processes run: after a reset each reading counts once again, and not on top of what
    local copies held. After an undo state and positions are the old ones: what is published then is counted on."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka_bootstrap)
    shop = Counting(sensors, call)
    with running(sensors.folder, "run", "--env", "prod", "--workers", "2") as started:
        until(lambda: shop.has_settled(1))
        written = len(shop.sensors.rows(f"{shop.name}.out"))
        answer = shop.do("reset", shop.name, "--json").json
        assert differences(shape(shown("reset")), shape(answer)) == []
        assert (answer["phase"], answer["desired"]) == ("done", "running")
        until(lambda: len(shop.sensors.rows(f"{shop.name}.out")) > written and shop.has_settled(1))
        shop.do("pause", shop.name)
        undone = shop.do("reset", shop.name, "--undo", "--json").json
        assert (undone["phase"], undone["desired"]) == ("undone", "paused")
        shop.do("resume", shop.name)
        shop.publish(shop.sample)
        until(lambda: shop.has_settled(2))
        listed = shop.do("reset", shop.name, "--list", "--json").json
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
