"""`python -m bench capture`: it measures what it says, on a real server and a real broker."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from bench.capture import RATE
from bench.capture_table import MariadbTable, PostgresTable

from bench import __main__ as bench


def check_rates_and_lag(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], database: str, environment: Mapping[str, str]
) -> None:
    """Of snapshot and stream every row, and the lag of each row that is written behind the first seconds."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = ["--database", database, "--json", "--rows", "12000", "--seconds", "1", "--systems", "headrace"]
    monkeypatch.setattr("sys.argv", ["bench", "capture", *options])
    assert bench.main() == 0
    snapshot, stream, lag = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(each["measurement"], each["records"]) for each in (snapshot, stream, lag)] == [
        ("snapshot", 12_000),
        ("stream", 12_000),
        ("lag", RATE),
    ]
    assert snapshot["records_per_second"] > 0
    assert stream["cpu_seconds"] > 0
    assert 0 < lag["p50_ms"] <= lag["p99_ms"]


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.xdist_group("postgres-kafka")
def test_rates_and_lag(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kafka_bootstrap: str, postgres_url: str
) -> None:
    """On PostgreSQL."""
    environment = {"HEADRACE_TEST_KAFKA": kafka_bootstrap, "HEADRACE_TEST_POSTGRES": postgres_url}
    check_rates_and_lag(monkeypatch, capfd, "postgres", environment)


@pytest.mark.kafka
@pytest.mark.mariadb
@pytest.mark.slow
@pytest.mark.xdist_group("postgres-kafka")  # Not beside the one above: both make the topic `items` anew.
def test_rates_and_lag_of_mariadb(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kafka_bootstrap: str, mariadb_url: str
) -> None:
    """The same on MariaDB."""
    environment = {"HEADRACE_TEST_KAFKA": kafka_bootstrap, "HEADRACE_TEST_MARIADB": mariadb_url}
    check_rates_and_lag(monkeypatch, capfd, "mariadb", environment)


def test_transactions_hold_every_row_once() -> None:
    """The last one is cut at the end."""
    text = PostgresTable().transactions(11, 25, 10)
    assert "11..25 BY 10" in text
    assert "generate_series(at, least(at + 9, 25))" in text
    text = MariadbTable().transactions(11, 25, 10)
    assert "DEFAULT 11; WHILE place <= 25 DO" in text
    assert "FROM seq_0_to_9 WHERE place + seq <= 25; SET place = place + 10" in text
