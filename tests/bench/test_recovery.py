"""`python -m bench recovery`: it measures what it says, on a real broker."""

from __future__ import annotations

import json

import pytest

from bench import __main__ as bench

KEYS = 3_000


def run(monkeypatch: pytest.MonkeyPatch, bootstrap: str, *arguments: str) -> int:
    monkeypatch.setenv("HEADRACE_TEST_KAFKA", bootstrap)
    monkeypatch.setattr("sys.argv", ["bench", "recovery", "--json", *arguments])
    return bench.main()


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.xdist_group("kafka")
def test_every_way_brings_all_keys_back(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kafka_bootstrap: str
) -> None:
    """From the changelog, the disk and a snapshot."""
    assert run(monkeypatch, kafka_bootstrap, "--keys", str(KEYS), "--only", "restore") == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    ways = {line["of"]: line["figures"] for line in lines if line["measurement"] == "restore"}
    assert set(ways) == {"changelog", "changelog, copied to disk", "disk", "snapshot"}
    assert {figures["keys"] for figures in ways.values()} == {KEYS}
    assert all(figures["seconds"] > 0 for figures in ways.values())
    # What comes from the disk is not read from the log, and the other way round.
    assert ways["changelog"]["records_read"] > 0
    assert ways["changelog"]["loaded_mb"] == 0
    for way in ("disk", "snapshot"):
        assert ways[way]["records_read"] == 0
        assert ways[way]["loaded_mb"] > 0


def test_unknown_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with those there are."""
    with pytest.raises(SystemExit, match=r"unknown measurement 'restor': one of restore, failover"):
        run(monkeypatch, "nowhere:1", "--only", "restor")
