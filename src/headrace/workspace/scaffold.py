"""A new workspace that runs: one contract, one pipeline, sample data.

Owns the files that `headrace init` writes.

- Nothing that exists is overwritten.
- The files are what a person would write by hand; the sample is the same every time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headrace.errors import HeadraceError

SAMPLE_TOPIC = "readings"
SAMPLE_FILE = "data/readings.jsonl"
SAMPLE_RESULT = "rooms.temperature"
SAMPLE_START = datetime(2026, 1, 1, 12, tzinfo=UTC)
SAMPLE_MINUTES = 10
SAMPLE_INTERVAL_S = 10
SENSORS = {"s-1": ("kitchen", 21.0), "s-2": ("kitchen", 22.0), "s-3": ("office", 20.0), "s-4": ("attic", 15.0)}
"""Sensor to its room and usual temperature."""

_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,63}$")

CONFIG = """\
name = "{name}"
environment = "dev"

[environments.dev]
log = "embedded"            # one SQLite file in .headrace/, no service

[environments.prod]
log = "kafka"
bootstrap_servers = "${{KAFKA_BOOTSTRAP}}"
registry = "builtin"        # or the URL of a Confluent-compatible registry
"""

CONTRACT = """\
topic: readings
owner: my-team
description: One temperature reading of one sensor.
kind: event
key: [sensor]
time: measured_at
fields:
  sensor:      {type: string, doc: Name of the sensor}
  room:        string
  celsius:     {type: "double?", unit: celsius}
  measured_at: timestamp-millis
"""

PIPELINE = '''\
"""Temperatures of rooms, made from the readings of their sensors."""

import headrace as hr
from headrace import col


@hr.pipeline(owner="my-team")
def room_temperatures():
    """Mean and highest temperature of each room, minute by minute."""
    return (
        hr.stream("readings")
        .filter(col("celsius").is_not_null())
        .group_by("room")
        .window(hr.tumbling("1m", grace="10s", idle_close="2s"))
        .agg(readings=hr.count(), mean_celsius=hr.mean("celsius"), max_celsius=hr.max("celsius"))
        .to("rooms.temperature", emit="final")
    )
'''

README = """\
# {name}

A headrace workspace. `contracts/` says what each topic holds, `pipelines/` makes new topics of them, `headrace.toml`
names the environments. `dev` is one file in `.headrace/` and needs no service.

    headrace plan       # what would change
    headrace apply      # change it
    headrace run        # run all pipelines until interrupted; or `headrace dev`, which reloads on change

    headrace publish readings --file data/readings.jsonl
    headrace read rooms.temperature --from-beginning
    headrace status

The same on Kafka: `KAFKA_BOOTSTRAP=host:9092 headrace apply --env prod`, then `headrace run --env prod --workers 2`.
"""


class NameInvalid(HeadraceError):
    """A name that no workspace can have."""

    code = "workspace.name_invalid"


class FolderNotEmpty(HeadraceError):
    """Files where the new workspace would go."""

    code = "workspace.folder_not_empty"


def write_scaffold(folder: Path) -> list[Path]:
    """Write a new workspace named like `folder`; returns its files, relative to it."""
    name = folder.absolute().name
    if not _NAME.match(name):
        raise NameInvalid(
            f"{name!r} cannot be the name of a workspace",
            cure="use lower case letters, digits, '-' and '_', first a letter",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderNotEmpty(f"{folder} exists and is not an empty folder", cure="choose another name")
    for path, text in _files(name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return [Path(path) for path in _files(name)]


def _files(name: str) -> dict[str, str]:
    return {
        "headrace.toml": CONFIG.format(name=name),
        "contracts/readings.yaml": CONTRACT,
        "pipelines/rooms.py": PIPELINE,
        SAMPLE_FILE: "".join(f"{json.dumps(row)}\n" for row in _readings()),
        "README.md": README.format(name=name),
        ".gitignore": ".headrace/\n__pycache__/\n",
    }


def _readings() -> Iterator[dict[str, object]]:
    for second in range(0, SAMPLE_MINUTES * 60, SAMPLE_INTERVAL_S):
        moment = SAMPLE_START + timedelta(seconds=second)
        for place, (sensor, (room, usual)) in enumerate(SENSORS.items()):
            warmer = ((second // SAMPLE_INTERVAL_S) * (place + 3)) % 7 / 10
            yield {
                "sensor": sensor,
                "room": room,
                "celsius": round(usual + warmer, 1),
                "measured_at": moment.isoformat().replace("+00:00", "Z"),
            }
