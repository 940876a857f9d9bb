"""`python -m bench batches`: every record is read, every stage is told."""

from __future__ import annotations

import json

import pytest
from bench.batches import STAGES

from bench import __main__ as bench


def test_each_size_of_each_job(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """With what each stage took, and the stages put back as they were."""
    before = [getattr(owner, method) for _, owner, method in STAGES]
    options = ["--json", "--rows", "1,10", "--batches", "2"]
    monkeypatch.setattr("sys.argv", ["bench", "batches", *options])
    assert bench.main() == 0
    costs = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(each["job"], each["rows"]) for each in costs] == [
        (job, rows) for job in ("filter_project", "tumbling_sum_1k") for rows in (1, 10)
    ]
    assert all({"decode", "pass", "commit"} <= each["stages_ms"].keys() for each in costs)
    assert [getattr(owner, method) for _, owner, method in STAGES] == before
