"""Where tests find MariaDB: the server that is named, a container, or one started here.

- `HEADRACE_TEST_MARIADB=mysql://...` names a server (MySQL's too) whose binary log has rows, and a superuser of it.
- Else a Docker daemon runs the official image, else the system's own package is started.
- No server is a failure where `CI` is `true`, and a reason to skip elsewhere (`MariadbMissing` tells why).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.testing.kafka_service import docker_answers
from headrace.testing.mariadb import SETTINGS, missing_programs, start_mariadb
from headrace.testing.server_process import free_ports

URL_VARIABLE = "HEADRACE_TEST_MARIADB"
IMAGE_VARIABLE = "HEADRACE_TEST_MARIADB_IMAGE"
IMAGE = "mariadb:10.11"


class MariadbMissing(HeadraceError):
    """No MariaDB can be had here."""

    code = "testing.mariadb_missing"
    fault = Fault.STOP


def mariadb_service(session_directory: Path, *, owner_pid: int) -> AbstractContextManager[str]:
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
        raise MariadbMissing(f"no MariaDB: {URL_VARIABLE} is not set, no Docker daemon answers, and {reason}")
    return nullcontext(start_mariadb(session_directory, temporary=True, owner_pid=owner_pid).url)


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    (port,) = free_ports(1)
    container = DockerContainer(os.environ.get(IMAGE_VARIABLE) or IMAGE)
    container.with_bind_ports(3306, port)
    container.with_env("MARIADB_ALLOW_EMPTY_ROOT_PASSWORD", "1")
    container.with_command([f"--{name}={value}" for name, value in SETTINGS.items()])
    with container:
        # The image starts the server twice; the second start is the one that stays.
        wait_for_logs(container, r"(?s)ready for connections.*ready for connections", timeout=60)
        yield f"mysql://root@127.0.0.1:{port}"
