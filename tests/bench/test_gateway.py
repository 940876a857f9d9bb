"""`python -m bench gateway` measures what it says, and checks the topic."""

from __future__ import annotations

import argparse
import json

import pytest

from bench import gateway


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    gateway.add_arguments(parser)
    return parser.parse_args(given)


def test_each_load_is_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a load; every record that was answered is in the topic once."""
    monkeypatch.setattr(gateway, "WARM_S", 0.1)
    given = ["--seconds", "1", "--under-way", "4", "--batches-under-way", "2", "--json"]
    assert gateway.run(arguments(*given, "--loads", "keyed,events")) == 0
    keyed, events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (keyed["load"], events["load"]) == ("keyed", "events")
    assert events["records"] == events["requests"] * gateway.BATCH
    for line in (keyed, events):
        assert line["log"] == "embedded"
        assert line["requests"] > 1
        assert 0 < line["p50_ms"] <= line["p99_ms"]
        assert line["peak_mb"] > 50
        assert line["records_per_second"] > 0


def test_a_topic_that_lacks_records_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of records that are not there is none."""
    monkeypatch.setattr(gateway, "WARM_S", 0.1)
    monkeypatch.setattr(gateway, "_visible", lambda *_: 1)
    assert gateway.run(arguments("--seconds", "1", "--under-way", "2", "--loads", "single")) == 1


def test_unknown_loads_are_refused() -> None:
    """By name."""
    with pytest.raises(SystemExit, match="unknown load 'x'"):
        gateway.run(arguments("--loads", "x"))
