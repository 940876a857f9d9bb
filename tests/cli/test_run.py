"""`headrace run` and `headrace dev` as processes: the printed commands, draining, crashes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.server_process import free_ports

from .conftest import Call, process, spawn

HEADRACE = f"{sys.executable} -m headrace.cli"


def until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.1)


@dataclass(frozen=True)
class Sensors:
    """The workspace that `init` makes, looked at from this process while others work on it."""

    folder: Path
    call: Call
    environment: str = "dev"

    @property
    def here(self) -> tuple[str, ...]:
        return ("--workspace", str(self.folder), "--env", self.environment)

    def rows(self, topic: str = "rooms.temperature") -> list[dict[str, Any]]:
        lines = self.call("read", topic, "--json", *self.here).lines
        return [json.loads(line)["value"] for line in lines]

    def component(self, name: str = "room_temperatures") -> dict[str, Any]:
        answer = self.call("status", "--json", *self.here)
        found: dict[str, dict[str, Any]] = {each["name"]: each for each in answer.json["components"]}
        return found[name]

    def is_running(self) -> bool:
        return bool(self.component()["state"] == "running")


def batch_answer(folder: Path) -> list[tuple[str, str, int, float]]:
    """The sample's answer in plain Python: room, minute, readings, highest temperature."""
    windows: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in (folder / "data" / "readings.jsonl").read_text().splitlines():
        row = json.loads(line)
        windows[row["room"], row["measured_at"][:16]].append(row["celsius"])
    return sorted((room, minute, len(seen), max(seen)) for (room, minute), seen in windows.items())


def stream_answer(sensors: Sensors, topic: str = "rooms.temperature") -> list[tuple[str, str, int, float]]:
    rows = sensors.rows(topic)
    return sorted((row["room"], row["window_start"][:16], row["readings"], row["max_celsius"]) for row in rows)


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a worker's answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def running(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`headrace run` in the background; killed at the end if the test did not stop it."""
    started = spawn(*words, cwd=folder)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def drained(started: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> int:
    started.send_signal(how)
    started.communicate(timeout=120)
    return started.returncode


@pytest.fixture
def sensors(tmp_path: Path, call: Call) -> Sensors:
    folder = tmp_path / "sensors"
    assert call("init", str(folder)).code == 0
    return Sensors(folder, call)


def test_the_printed_commands_work_as_printed(tmp_path: Path, call: Call) -> None:
    """What `init` prints runs in a shell as it stands, and the derived topic then equals the batch answer."""
    printed = process("init", "sensors", cwd=tmp_path).out
    (chain,) = re.findall(r"^  (cd sensors && .*)$", printed, re.MULTILINE)
    command = chain.replace("headrace ", f"{HEADRACE} ").replace("&& " + f"{HEADRACE} run", f"&& exec {HEADRACE} run")
    shell = subprocess.Popen(
        ["bash", "-c", command], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    sensors = Sensors(tmp_path / "sensors", call)
    try:
        until(lambda: len(sensors.rows()) == 30)
        until(sensors.is_running)
    finally:
        shell.send_signal(signal.SIGINT)
        _, err = shell.communicate(timeout=120)
    assert shell.returncode == 0
    assert stream_answer(sensors) == batch_answer(sensors.folder)
    assert "pipeline room_temperatures" in err
    state = sensors.component()
    assert (state["state"], state["lag_records"], state["records_in"] >= 240) == ("stopped", 0, True)


def test_killed_worker_is_replaced_and_nothing_is_doubled(sensors: Sensors) -> None:
    """With two workers one is killed by SIGKILL while records come in; the answer is still the batch answer."""

    def is_back(victim: dict[str, Any]) -> bool:
        return any(
            each["instance"] == victim["instance"] and each["pid"] != victim["pid"] and each["state"] == "running"
            for each in sensors.component()["workers"]
        )

    with running(sensors.folder, "run", "--workers", "2") as started:
        until(lambda: sensors.component()["instances"] == 2)
        victim = sensors.component()["workers"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        until(lambda: len(sensors.rows()) == 30)
        until(lambda: is_back(victim))
        assert drained(started) == 0
    assert stream_answer(sensors) == batch_answer(sensors.folder)


HOT = (
    "import headrace as hr\n"
    "from headrace import col\n\n\n"
    '@hr.pipeline(owner="me")\n'
    "def hot():\n"
    '    return hr.stream("readings").filter(col("celsius") > 22).to("readings.hot")\n'
)


def test_ten_lines_by_hand_run(sensors: Sensors, call: Call) -> None:
    """A pipeline written by hand in ten lines runs after `plan` and `apply`, by its name alone, and says how it is."""
    (sensors.folder / "pipelines" / "hot.py").write_text(HOT)
    assert call("plan", *sensors.here).code == 2
    assert call("apply", *sensors.here).code == 0
    sample = [json.loads(line) for line in (sensors.folder / "data" / "readings.jsonl").read_text().splitlines()]
    hot = [row for row in sample if row["celsius"] > 22]
    assert hot
    (port,) = free_ports(1)
    with running(sensors.folder, "run", "hot", "--http-port", str(port)) as started:
        until(lambda: len(sensors.rows("readings.hot")) == len(hot))
        assert sensors.component()["state"] == "not started"
        until(lambda: get(port, "/ready")[0] == 200)
        assert json.loads(get(port, "/ready")[1])["components"][0]["name"] == "hot"
        until(lambda: f'headrace_records_in_total{{pipeline="hot"}} {len(sample)}.0' in get(port, "/metrics")[1])
        assert drained(started) == 0
    assert sorted(map(str, sensors.rows("readings.hot"))) == sorted(map(str, hot))


@pytest.mark.kafka
def test_the_same_workspace_on_kafka(
    sensors: Sensors, call: Call, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plan, apply, publish and two workers on a real broker, by `--env prod` alone; SIGTERM drains both."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka_bootstrap)
    # The broker is shared by all tests, so the names are this test's own; nothing else changes.
    mine = f"w{uuid.uuid4().hex[:8]}"
    for path in [*sensors.folder.rglob("*.yaml"), *sensors.folder.rglob("*.py"), sensors.folder / "headrace.toml"]:
        text = path.read_text().replace("topic: readings", f"topic: {mine}.in").replace('"readings"', f'"{mine}.in"')
        text = text.replace("room_temperatures", mine).replace("rooms.temperature", f"{mine}.out")
        path.write_text(text.replace('name = "sensors"', f'name = "{mine}"'))
    kafka = Sensors(sensors.folder, call, "prod")
    assert call("plan", *kafka.here).code == 2
    assert call("apply", *kafka.here).code == 0
    assert call("plan", *kafka.here).code == 0
    sample = str(sensors.folder / "data" / "readings.jsonl")
    assert call("publish", f"{mine}.in", "--file", sample, *kafka.here).code == 0
    with running(sensors.folder, "run", "--env", "prod", "--workers", "2") as started:
        until(lambda: len(kafka.rows(f"{mine}.out")) == 30)
        assert drained(started) == 0
    assert stream_answer(kafka, f"{mine}.out") == batch_answer(sensors.folder)
    assert (kafka.component(mine)["state"], kafka.component(mine)["lag_records"]) == ("stopped", 0)


def test_supervisor_killed_workers_leave(sensors: Sensors) -> None:
    """When `headrace run` itself is killed its workers drain by themselves, and no slot stays taken."""
    with running(sensors.folder, "run") as started:
        until(sensors.is_running)
        started.kill()
        until(lambda: sensors.component()["state"] == "stopped")


def test_dev_reloads_on_change(sensors: Sensors, call: Call) -> None:
    """`dev` applies a new pipeline by itself, tells a broken file, goes on when it is mended, and Ctrl-C ends it."""
    file = sensors.folder / "pipelines" / "hot.py"
    with running(sensors.folder, "dev") as started:
        until(lambda: len(sensors.rows()) == 30)
        file.write_text(HOT.replace("celsius", "celcius"))
        assert started.stderr is not None
        for line in started.stderr:
            if "celcius" in line:
                break
        file.write_text(HOT)
        until(lambda: "readings.hot" in call("topics", *sensors.here).out)
        until(lambda: len(sensors.rows("readings.hot")) > 0)
        assert drained(started, signal.SIGINT) == 0
