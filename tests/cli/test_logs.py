"""What a fleet logs: one event a line, for whom it is, and nothing of what is in the records. Nobody is left behind."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from tests.engine.harness import raw
from tests.faults.fleet import worker_processes

from headrace.log.embedded import EmbeddedLog
from headrace.testing.server_process import free_ports
from headrace.workspace.supervisor import DRAIN_TIMEOUT_S

from .conftest import Call
from .test_run import Sensors, get, running, sensors, until

__all__ = ["sensors"]

SECRET = "hunter2"
PICKY = (
    "import headrace as hr\n\n\n"
    "def checked(row):\n"
    '    if "hunter2" in row["room"]:\n'
    '        raise ValueError(f"cannot read {row}")\n'
    '    return {"room": row["room"], "celsius": row["celsius"]}\n\n\n'
    '@hr.pipeline(owner="me")\n'
    "def picky():\n"
    '    rows = hr.stream("readings").map(checked, schema={"room": "string", "celsius": "double"})\n'
    '    return rows.to("readings.checked")\n'
)


@pytest.mark.slow
def test_two_workers_log_who_they_are_and_no_record(sensors: Sensors, call: Call) -> None:
    """Records that fail, one with its value in the exception's text and one of bad bytes: both are dead letters, and no
    line has a word of them. SIGTERM ends all processes in time."""
    (sensors.folder / "pipelines" / "picky.py").write_text(PICKY)
    bad = sensors.folder / "bad.jsonl"
    row = {"sensor": "s-1", "room": SECRET, "celsius": 20.5, "measured_at": "2026-01-05T08:00:00Z"}
    bad.write_text(json.dumps(row) + "\n")
    assert call("apply", *sensors.here).code == 0
    assert call("publish", "readings", "--file", str(bad), *sensors.here).code == 0
    log = EmbeddedLog(sensors.folder / ".headrace" / "log.db")
    producer = log.producer()
    producer.produce(raw("readings", [f"no frame {SECRET}".encode()]))
    producer.flush()
    producer.close()
    log.close()
    port = min(free_ports(2))
    with running(sensors.folder, "run", "picky", "--workers", "2", "--http-port", str(port)) as started:
        until(lambda: sensors.component("picky")["dead_letters"] == 2)
        until(lambda: get(port, "/ready")[0] == 200)
        assert json.loads(get(port, "/live")[1])["stuck"] == []
        workers = worker_processes(started.pid)
        assert len(workers) == 2
        began_s = time.monotonic()
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=120)
        assert time.monotonic() - began_s < DRAIN_TIMEOUT_S
    assert started.returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert SECRET not in err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    assert all(re.fullmatch("[a-z_]+", line["event"]) for line in lines)
    assert {line["process"] for line in lines if "instance" not in line} == {"supervisor"}
    assert all(line["pipeline"] == "picky" for line in lines if "instance" in line)
    gained = {line["instance"] for line in lines if line["event"] == "rebalance" and line["change"] == "assigned"}
    assert gained
    assert [line["event"] for line in lines if line["level"] in ("error", "critical")] == []


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nobody_behind(sensors: Sensors) -> None:
    """SIGKILL to `headrace run --workers 3`: all three drain and end by themselves."""
    with running(sensors.folder, "run", "--workers", "3") as started:
        until(lambda: sensors.component()["instances"] == 3)
        workers = worker_processes(started.pid)
        assert len(workers) == 3
        started.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        until(lambda: sensors.component()["state"] == "stopped")
    assert {each["state"] for each in sensors.component()["workers"]} == {"stopped"}
