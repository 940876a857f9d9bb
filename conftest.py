"""What all tests share: one Kafka broker, one PostgreSQL, one MariaDB, one Redis and one OpenSearch per session, found
or started when a test asks for it, and log lines that go where they went before."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
import structlog

from headrace.errors import HeadraceError
from headrace.log.kafka import KafkaLog
from headrace.testing.broker import stop_broker
from headrace.testing.kafka_service import KafkaMissing, is_required, kafka_service
from headrace.testing.mariadb_service import SERVER as MARIADB_SERVER
from headrace.testing.mariadb_service import MariadbMissing, mariadb_service
from headrace.testing.opensearch import stop_opensearch
from headrace.testing.opensearch_service import OpenSearchMissing, opensearch_service
from headrace.testing.postgres import stop_postgres
from headrace.testing.postgres_service import PostgresMissing, postgres_service
from headrace.testing.redis import stop_redis
from headrace.testing.redis_service import RedisMissing, redis_service

SESSION_VARIABLE = "HEADRACE_TEST_SESSION"
"""`<process id>:<directory>` of the session, handed to the workers of pytest-xdist by the environment."""


def pytest_configure(config: pytest.Config) -> None:
    """The session's first process owns the servers; the workers of pytest-xdist share them."""
    # Hundreds of tests start processes, and each would compile every module of headrace that it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not hasattr(config, "workerinput"):
        directory = tempfile.mkdtemp(prefix="headrace-session-")
        os.chmod(directory, 0o711)  # PostgreSQL runs as another user where the tests run as root.
        os.environ[SESSION_VARIABLE] = f"{os.getpid()}:{directory}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers that any worker started."""
    if not hasattr(config, "workerinput"):
        _, directory = _session()
        stop_broker(directory / "kafka")
        stop_postgres(directory / "postgres")
        MARIADB_SERVER.stop(directory / "mariadb")
        stop_redis(directory / "redis")
        stop_opensearch(directory / "opensearch")
        shutil.rmtree(directory, ignore_errors=True)


def _session() -> tuple[int, Path]:
    owner, _, directory = os.environ[SESSION_VARIABLE].partition(":")
    return int(owner), Path(directory)


@pytest.fixture(autouse=True)
def log_lines_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands say where log lines go, for their process: tests after them must not print into what was captured, nor
    keep a logger that does."""
    before, configure = structlog.get_config(), structlog.configure
    monkeypatch.setattr(
        structlog, "configure", lambda **given: configure(**{**given, "cache_logger_on_first_use": False})
    )
    yield
    configure(**before)


@contextmanager
def _served(
    open_service: Callable[..., AbstractContextManager[str]], name: str, missing: type[HeadraceError]
) -> Iterator[str]:
    """The address of a session's service; without one the test is left out, or fails where it must not be."""
    owner_pid, directory = _session()
    try:
        service = open_service(directory / name, owner_pid=owner_pid)
    except missing as reason:
        if is_required():
            raise
        pytest.skip(str(reason))
    with service as address:
        yield address


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """Address of a real Kafka broker. Topics and groups in it are shared: use unique names."""
    with _served(kafka_service, "kafka", KafkaMissing) as address:
        yield address


@pytest.fixture
def kafka_log(kafka_bootstrap: str) -> Iterator[KafkaLog]:
    """A log over that broker."""
    with closing(KafkaLog(kafka_bootstrap)) as log:
        yield log


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a real PostgreSQL, as its superuser. Make a database of your own in it, and drop it."""
    with _served(postgres_service, "postgres", PostgresMissing) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """URL of a real MariaDB (or MySQL), as its superuser. Make a database of your own in it, and drop it."""
    with _served(mariadb_service, "mariadb", MariadbMissing) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a real Redis. Its keys are shared: use a prefix of your own."""
    with _served(redis_service, "redis", RedisMissing) as url:
        yield url


@pytest.fixture(scope="session")
def opensearch_url() -> Iterator[str]:
    """URL of a real OpenSearch. Make indexes of your own in it, and remove them."""
    with _served(opensearch_service, "opensearch", OpenSearchMissing) as url:
        yield url
