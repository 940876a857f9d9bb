"""`headrace demo`: the flights job from source files to database, with real processes on the embedded log."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("batch_records_max", "flights"), [(1, 500), (7, 3_000), (1_000, 60_000), (100_000, 60_000)])
def test_every_row_is_equal_at_any_batch_size(batch_records_max: int, flights: int) -> None:
    """The target's rows equal plain SQL over the source files; the batch size decides only how fast that is."""
    command = ["demo", "--json", "--rows", str(flights), "--batch-records-max", str(batch_records_max)]
    done = subprocess.run([sys.executable, "-m", "headrace.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows_equal"] is True
    assert report["rows"] == report["rows_expected"] > 0
    assert report["records"] == flights
    assert report["records_per_second"] > 0
    assert report["seconds"] > 0


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(240)
def test_the_second_form_gives_the_same_answer(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes and airlines captured from PostgreSQL, flights posted to the gateway: every row is equal."""
    monkeypatch.setenv("HEADRACE_POSTGRES", postgres_url)
    command = ["demo", "--services", "--json", "--rows", "60000"]
    done = subprocess.run([sys.executable, "-m", "headrace.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows_equal"] is True
    assert report["rows"] == report["rows_expected"] > 0
