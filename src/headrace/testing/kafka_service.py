"""Finding a Kafka broker for tests.

Owns the order of the search and nothing that outlives it:
1. `HEADRACE_TEST_KAFKA`: the address of a running broker;
2. a container, where a Docker daemon answers and `testcontainers` is installed;
3. a broker of this machine (`headrace.testing.broker`), shared by all processes of a test session.

- Nothing of ours is left running: containers end with their user, the shared broker with its session.
- No broker is a failure where `CI` is `true`, and a reason to skip elsewhere (`KafkaMissing` tells why).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from headrace.errors import Fault, HeadraceError
from headrace.testing.broker import COMMON_SETTINGS, QUICK_OPTIONS, start_broker, wait_until_ready
from headrace.testing.kafka_jars import kafka_version, missing_programs
from headrace.testing.server_process import free_ports

ADDRESS_VARIABLE = "HEADRACE_TEST_KAFKA"
IMAGE_VARIABLE = "HEADRACE_TEST_KAFKA_IMAGE"
CONTROLLER_PORT = 9093
DOCKER_PING_TIMEOUT_S = 3


class KafkaMissing(HeadraceError):
    """No Kafka broker can be had here."""

    code = "testing.kafka_missing"
    fault = Fault.STOP


def is_required() -> bool:
    """Whether a missing broker is a failure."""
    return os.environ.get("CI", "").lower() == "true"


def kafka_service(session_directory: Path, *, owner_pid: int) -> AbstractContextManager[str]:
    """The address of a broker while the context lasts.

    A broker started on this machine lives in `session_directory` until the session stops it
    (`headrace.testing.broker.stop_broker`) or `owner_pid` is gone.
    """
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        return nullcontext(address)
    if docker_answers():
        return _container()
    reason = missing_programs()
    if reason:
        raise KafkaMissing(
            f"no Kafka broker: {ADDRESS_VARIABLE} is not set, no Docker daemon answers, and {reason}",
            cure=f"do one of the three; {ADDRESS_VARIABLE}=host:port names a running broker",
        )
    broker = start_broker(session_directory, temporary=True, owner_pid=owner_pid, heap=QUICK_OPTIONS)
    return nullcontext(broker.bootstrap)


def docker_answers() -> bool:
    """Whether a Docker daemon can be used here."""
    try:
        docker: Any = importlib.import_module("docker")
    except ImportError:
        return False
    try:
        return bool(docker.from_env(timeout=DOCKER_PING_TIMEOUT_S).ping())
    except docker.errors.DockerException:
        return False


@contextmanager
def _container() -> Iterator[str]:
    """A broker of the official image, on a port of this machine that is known before it starts."""
    from testcontainers.core.container import DockerContainer

    (port,) = free_ports(1)
    container = DockerContainer(os.environ.get(IMAGE_VARIABLE) or f"apache/kafka:{kafka_version()}")
    container.with_bind_ports(port, port)
    for name, value in _container_settings(port).items():
        container.with_env(_variable(name), value)
    with container:
        address = f"127.0.0.1:{port}"
        failure = wait_until_ready(address)
        if failure is not None:
            raise KafkaMissing(f"the Kafka container {failure}", cure=f"set {ADDRESS_VARIABLE} to a running broker")
        yield address


def _container_settings(port: int) -> Mapping[str, str]:
    return {
        **COMMON_SETTINGS,
        "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://0.0.0.0:{CONTROLLER_PORT}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@127.0.0.1:{CONTROLLER_PORT}",
    }


def _variable(setting: str) -> str:
    """The image's name for a setting."""
    return "KAFKA_" + setting.upper().replace(".", "_")
