"""What can be known of the image and the compose file without Docker: their commands and files exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.testing.kafka_jars import kafka_version
from headrace.workspace.supervisor import DRAIN_TIMEOUT_S

from .test_docs import options_by_command

ROOT = Path(__file__).parent.parent.parent
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["apply", "worker"])
def test_commands_of_the_compose_file_exist(name: str) -> None:
    """Each service calls a command of headrace with options that it takes."""
    command, *words = SERVICES[name]["command"]
    assert {word for word in words if word.startswith("--")} <= options_by_command()[command]


def test_the_broker_is_the_one_of_the_tests() -> None:
    """The image has the version that everything is tested with."""
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka_version()}"


def test_a_stop_waits_longer_than_a_drain() -> None:
    """Docker must not kill a supervisor that still drains its workers."""
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > DRAIN_TIMEOUT_S


def test_files_of_the_image_exist() -> None:
    """What the Dockerfile copies is in the repository."""
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
