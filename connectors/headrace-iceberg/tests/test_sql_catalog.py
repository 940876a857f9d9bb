"""A catalog in a database that has users: PostgreSQL. What it refuses stops, what passes is tried again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from headrace.egress.config import EgressConfig
from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace.testing.sink_harness import TOPIC, Stage, order, order_contract, wait_until
from headrace_iceberg import IcebergConnector, failures
from headrace_iceberg.failures import translated


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


@pytest.fixture
def role(postgres_url: str) -> Iterator[str]:
    """A user that may not log in."""
    name = f"lake_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} NOLOGIN")
        yield name
        admin.execute(f"DROP ROLE {name}")


def config(url: sqlalchemy.URL, folder: Path) -> EgressConfig:
    uri = url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    return EgressConfig.model_validate(
        {
            "name": "out",
            "topic": TOPIC,
            "connector": "iceberg",
            "mode": "upsert",
            "options": {"uri": uri, "warehouse": str(folder / "lake"), "table": "shop.orders"},
            "retry": {"first_ms": 1, "max_ms": 20},
        }
    )


@pytest.mark.postgres
def test_a_login_that_the_database_refuses_stops(stage: Stage, tmp_path: Path, postgres_url: str, role: str) -> None:
    """A user that may not log in, one that is not there, a database that is not there: nobody tries for ever."""
    url = sqlalchemy.make_url(postgres_url)
    stage.publish([order(1)])
    for wrong in (
        url.set(username=role),
        url.set(username="nobody_is_called_so"),
        url.set(database="no_such_database"),
    ):
        with pytest.raises(TargetInvalid, match="FATAL") as raised:
            stage.deliver(IcebergConnector(), config(wrong, tmp_path))
        assert "user, password or rights" in raised.value.cure


@pytest.mark.postgres
def test_a_database_that_is_away_is_tried_again(stage: Stage, tmp_path: Path, postgres_url: str) -> None:
    """Nobody listens: that is no login."""
    runner = stage.runner(IcebergConnector(), config(sqlalchemy.make_url(postgres_url).set(port=1), tmp_path))
    stage.publish([order(1)])
    with stage.running(runner):
        wait_until(lambda: runner.counters.retries >= 2, "tried again")
        assert isinstance(runner.status().error, TargetUnavailable)


@pytest.mark.parametrize(
    "told",
    [
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "lake"',
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  no pg_hba.conf entry for host "10.0.0.2"',
        "connection to server failed: fe_sendauth: no password supplied",
        "(1045, \"Access denied for user 'lake'@'10.0.0.2' (using password: YES)\")",
        "(1049, \"Unknown database 'lake'\")",
        "(1130, \"Host '10.0.0.2' is not allowed to connect to this MariaDB server\")",
    ],
)
def test_words_of_a_refused_login(told: str) -> None:
    """Of servers that the test's PostgreSQL, which asks for no password, does not say."""
    with pytest.raises(TargetInvalid), translated("here"):
        raise sqlalchemy.exc.OperationalError(None, None, Exception(told))


def test_words_of_a_server_that_is_away() -> None:
    """Its start, its end, and one that has enough of us."""
    for told in (
        "FATAL:  the database system is starting up",
        "FATAL:  sorry, too many clients already",
        "(2003, 'x')",
    ):
        assert not failures._LOGIN_REFUSED.search(told)
        with pytest.raises(TargetUnavailable), translated("here"):
            raise sqlalchemy.exc.OperationalError(None, None, Exception(told))
