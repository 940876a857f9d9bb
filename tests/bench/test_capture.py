"""`python -m bench capture`: it measures what it says, on a real server and a real broker."""

from __future__ import annotations

import json

import pytest
from bench.capture import RATE
from bench.capture_table import PostgresTable

from bench import __main__ as bench


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.xdist_group("postgres-kafka")
def test_rates_and_lag(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kafka_bootstrap: str, postgres_url: str
) -> None:
    """Of snapshot and stream every row, and the lag of each row that is written behind the first seconds."""
    monkeypatch.setenv("HEADRACE_TEST_KAFKA", kafka_bootstrap)
    monkeypatch.setenv("HEADRACE_TEST_POSTGRES", postgres_url)
    options = ["--json", "--rows", "12000", "--seconds", "1", "--systems", "headrace"]
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


def test_transactions_hold_every_row_once() -> None:
    """The last one is cut at the end."""
    text = PostgresTable().transactions(11, 25, 10)
    assert "11..25 BY 10" in text
    assert "generate_series(at, least(at + 9, 25))" in text
