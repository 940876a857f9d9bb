"""Where tests find a database server: the one that is named, a container, or one started here.

Owns this order. No server is a failure where `CI` is `true`, and a reason to skip elsewhere (`missing` tells why).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import HeadraceError
from headrace.testing.database_server import DatabaseServer
from headrace.testing.kafka_service import docker_answers
from headrace.testing.server_process import free_ports

CONTAINER_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Container:
    """The official image of a server."""

    image: str
    image_variable: str
    """An environment variable that names another one."""
    port: int
    environment: Mapping[str, str]
    command: Sequence[str]
    ready: str
    """What it logs once it takes connections."""
    starts: int = 2
    """How often the image starts its server; the last start is the one that stays."""


@dataclass(frozen=True, slots=True)
class DatabaseService:
    """One kind of server, for the tests of a session."""

    server: DatabaseServer
    url_variable: str
    container: Container | None
    """None: no image takes its place."""
    missing: type[HeadraceError]

    def open(self, session_directory: Path, *, owner_pid: int) -> AbstractContextManager[str]:
        """The URL of a server while the context lasts. Raises `missing`.

        One started on this machine lives in `session_directory` until the session stops it or `owner_pid` is gone.
        """
        url = os.environ.get(self.url_variable)
        if url:
            return nullcontext(url)
        if self.container is not None and docker_answers():
            return self._in_container(self.container)
        reason = self.server.missing_programs()
        if reason:
            raise self.missing(
                f"no {self.server.title}: {self.url_variable} is not set, no Docker daemon answers, and {reason}"
            )
        return nullcontext(self.server.start(session_directory, temporary=True, owner_pid=owner_pid).url)

    @contextmanager
    def _in_container(self, image: Container) -> Iterator[str]:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.waiting_utils import wait_for_logs

        (port,) = free_ports(1)
        container = DockerContainer(os.environ.get(image.image_variable) or image.image)
        container.with_bind_ports(image.port, port)
        for name, value in image.environment.items():
            container.with_env(name, value)
        container.with_command(list(image.command))
        with container:
            ready = ".*".join([image.ready] * image.starts)
            wait_for_logs(container, f"(?s){ready}", timeout=CONTAINER_TIMEOUT_S)
            yield self.server.url(port)
