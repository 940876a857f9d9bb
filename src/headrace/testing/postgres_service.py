"""Where tests find PostgreSQL: the server that is named, a container, or one started here.

- `HEADRACE_TEST_POSTGRES=postgresql://...` names a server with `wal_level=logical` and a superuser of it.
- Else a Docker daemon runs the official image, else the system's own package is started.
- No server is a failure where `CI` is `true`, and a reason to skip elsewhere (`PostgresMissing` tells why).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.testing.kafka_service import docker_answers
from headrace.testing.postgres import SETTINGS, USER, missing_programs, start_postgres
from headrace.testing.server_process import free_ports

URL_VARIABLE = "HEADRACE_TEST_POSTGRES"
IMAGE_VARIABLE = "HEADRACE_TEST_POSTGRES_IMAGE"
IMAGE = "postgres:17"


class PostgresMissing(HeadraceError):
    """No PostgreSQL can be had here."""

    code = "testing.postgres_missing"
    fault = Fault.STOP


def postgres_service(session_directory: Path, *, owner_pid: int) -> AbstractContextManager[str]:
    """The URL of a server while the context lasts.

    One started on this machine lives in `session_directory` until the session stops it or `owner_pid` is gone.
    """
    url = os.environ.get(URL_VARIABLE)
    if url:
        return nullcontext(url)
    if docker_answers():
        return _container()
    reason = missing_programs()
    if reason:
        raise PostgresMissing(f"no PostgreSQL: {URL_VARIABLE} is not set, no Docker daemon answers, and {reason}")
    return nullcontext(start_postgres(session_directory, temporary=True, owner_pid=owner_pid).url)


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    (port,) = free_ports(1)
    container = DockerContainer(os.environ.get(IMAGE_VARIABLE) or IMAGE)
    container.with_bind_ports(5432, port)
    container.with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
    container.with_command(
        ["postgres", *(part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}"))]
    )
    with container:
        # The image starts the server twice; the second start is the one that stays.
        wait_for_logs(container, r"(?s)ready to accept connections.*ready to accept connections", timeout=60)
        yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
