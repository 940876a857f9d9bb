"""`headrace run` and `headrace dev` as processes: the printed commands, draining, crashes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import process, spawn

HEADRACE = f"{sys.executable} -m headrace.cli"


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.1)


def rows(folder: Path, topic: str = "rooms.temperature") -> list[dict[str, Any]]:
    answer = process("read", topic, "--json", cwd=folder)
    return [json.loads(line)["value"] for line in answer.lines]


def components(folder: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in process("status", "--json", cwd=folder).json["components"]}


def batch_answer(folder: Path) -> list[tuple[str, str, int, float]]:
    """The sample's answer in plain Python: room, minute, readings, highest temperature."""
    windows: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in (folder / "data" / "readings.jsonl").read_text().splitlines():
        row = json.loads(line)
        windows[row["room"], row["measured_at"][:16]].append(row["celsius"])
    return sorted((room, minute, len(seen), max(seen)) for (room, minute), seen in windows.items())


def stream_answer(folder: Path) -> list[tuple[str, str, int, float]]:
    return sorted((row["room"], row["window_start"][:16], row["readings"], row["max_celsius"]) for row in rows(folder))


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
    started.communicate(timeout=60)
    return started.returncode


@pytest.fixture
def sensors(tmp_path: Path) -> Path:
    assert process("init", "sensors", cwd=tmp_path).code == 0
    return tmp_path / "sensors"


def test_the_printed_commands_work_as_printed(tmp_path: Path) -> None:
    """What `init` prints runs in a shell as it stands, and the derived topic then equals the batch answer."""
    printed = process("init", "sensors", cwd=tmp_path).out
    (chain,) = re.findall(r"^  (cd sensors && .*)$", printed, re.MULTILINE)
    command = chain.replace("headrace ", f"{HEADRACE} ").replace("&& " + f"{HEADRACE} run", f"&& exec {HEADRACE} run")
    shell = subprocess.Popen(
        ["bash", "-c", command], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    folder = tmp_path / "sensors"
    try:
        until(lambda: len(rows(folder)) == 30)
        until(lambda: components(folder)["room_temperatures"]["state"] == "running")
    finally:
        shell.send_signal(signal.SIGINT)
        _, err = shell.communicate(timeout=60)
    assert shell.returncode == 0
    assert stream_answer(folder) == batch_answer(folder)
    assert "pipeline room_temperatures" in err
    state = components(folder)["room_temperatures"]
    assert (state["state"], state["lag_records"], state["records_in"] >= 240) == ("stopped", 0, True)


def test_killed_worker_is_replaced_and_nothing_is_doubled(sensors: Path) -> None:
    """With two workers one is killed by SIGKILL while records come in; the answer is still the batch answer."""
    with running(sensors, "run", "--workers", "2") as started:
        until(lambda: components(sensors)["room_temperatures"]["instances"] == 2)
        victim = components(sensors)["room_temperatures"]["workers"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        until(lambda: len(rows(sensors)) == 30)
        until(
            lambda: any(
                each["instance"] == victim["instance"] and each["pid"] != victim["pid"] and each["state"] == "running"
                for each in components(sensors)["room_temperatures"]["workers"]
            )
        )
        assert drained(started) == 0
    assert stream_answer(sensors) == batch_answer(sensors)


def test_ten_lines_by_hand_run(sensors: Path) -> None:
    """A pipeline written by hand in ten lines runs after `plan` and `apply`, by its name alone."""
    (sensors / "pipelines" / "hot.py").write_text(
        "import headrace as hr\n"
        "from headrace import col\n\n\n"
        '@hr.pipeline(owner="me")\n'
        "def hot():\n"
        '    return hr.stream("readings").filter(col("celsius") > 22).to("readings.hot")\n'
    )
    assert process("plan", cwd=sensors).code == 2
    assert process("apply", cwd=sensors).code == 0
    sample = [json.loads(line) for line in (sensors / "data" / "readings.jsonl").read_text().splitlines()]
    hot = [row for row in sample if row["celsius"] > 22]
    assert hot
    with running(sensors, "run", "hot") as started:
        until(lambda: len(rows(sensors, "readings.hot")) == len(hot))
        assert components(sensors)["room_temperatures"]["state"] == "not started"
        assert drained(started) == 0
    assert sorted(map(str, rows(sensors, "readings.hot"))) == sorted(map(str, hot))


def test_supervisor_killed_workers_leave(sensors: Path) -> None:
    """When `headrace run` itself is killed its workers drain by themselves, and no slot stays taken."""
    with running(sensors, "run") as started:
        until(lambda: components(sensors)["room_temperatures"]["state"] == "running")
        started.kill()
        until(lambda: components(sensors)["room_temperatures"]["state"] == "stopped")


def test_dev_reloads_on_change(sensors: Path) -> None:
    """`dev` applies a new pipeline by itself, tells a broken file, and goes on when it is mended."""
    pipeline = (
        "import headrace as hr\nfrom headrace import col\n\n\n"
        '@hr.pipeline(owner="me")\ndef hot():\n'
        '    return hr.stream("readings").filter(col("celsius") > 22).to("readings.hot")\n'
    )
    with running(sensors, "dev") as started:
        until(lambda: len(rows(sensors)) == 30)
        (sensors / "pipelines" / "hot.py").write_text(pipeline.replace("celsius", "celcius"))
        assert started.stderr is not None
        for line in started.stderr:
            if "celcius" in line:
                break
        (sensors / "pipelines" / "hot.py").write_text(pipeline)
        until(lambda: "readings.hot" in process("topics", cwd=sensors).out)
        until(lambda: len(rows(sensors, "readings.hot")) > 0)
        assert drained(started, signal.SIGINT) == 0
