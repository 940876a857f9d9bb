"""`python -m bench egress` measures what it says, and counts the target."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from bench.egress_target import Target
from bench.egress_targets import TARGETS

from bench import egress
from headrace.egress.sdk import Mode
from headrace.testing import opensearch

GIVEN = ["--connectors", "duckdb", "--rows", "3000", "--keys", "1000", "--rounds", "1"]


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    egress.add_arguments(parser)
    return parser.parse_args(given)


def test_each_system_and_mode_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each; headrace's rate is that by which the others are divided."""
    assert egress.run(arguments(*GIVEN, "--json")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["mode"], line["system"]) for line in lines] == [
        (mode, system) for mode in ("append", "upsert") for system in ("headrace", "naive")
    ]
    assert all(line["rows_per_second"] > 0 for line in lines)
    assert [line["headrace_is"] for line in lines if line["system"] == "headrace"] == [1.0, 1.0]


def test_a_target_that_lacks_rows_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of rows that are not there is none."""

    @contextmanager
    def short(folder: Path, mode: Mode) -> Iterator[Target]:
        with TARGETS["duckdb"](folder, mode) as target:
            yield replace(target, count=lambda: 1, rivals={})

    monkeypatch.setattr(egress, "TARGETS", {"duckdb": short})
    assert egress.run(arguments(*GIVEN, "--modes", "append")) == 1


@pytest.mark.parametrize(
    ("name", "modes"),
    [
        ("iceberg", ["append"]),
        pytest.param("redis", ["append", "upsert"], marks=pytest.mark.redis),
        ("opensearch", ["append", "upsert"]),
        ("http", ["append", "upsert"]),
        ("http/5ms", ["append"]),
        ("http/ndjson", ["append", "upsert"]),
    ],
)
def test_a_target_holds_what_was_written(
    name: str,
    modes: list[str],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is started, written by headrace and by the loop beside it, and counted, in every mode that it has."""
    if name == "redis":
        request.getfixturevalue("redis_url")  # Left out, or a failure, where there is no Redis.
    if name == "opensearch":
        request.getfixturevalue("opensearch_url")
        # What is measured here is nothing: a node that starts quickly will do.
        monkeypatch.setattr(opensearch, "MEASURED_OPTIONS", opensearch.QUICK_OPTIONS)
    given = ["--connectors", name, "--rows", "300", "--keys", "100", "--rounds", "1", "--json"]
    given += ["--modes", ",".join(modes)]
    assert egress.run(arguments(*given)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [(line["connector"], line["mode"], line["system"]) for line in lines]
    assert found == [(name, mode, system) for mode in modes for system in ("headrace", "naive")]


def test_headrace_writes_no_more_rows_than_its_target_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each row is a request a run would take minutes: it is shorter, and right all the same."""
    held: list[int] = []

    @contextmanager
    def slow(folder: Path, mode: Mode) -> Iterator[Target]:
        with TARGETS["duckdb"](folder, mode) as target:
            yield replace(target, rows_max=500, rivals={})
            held.append(target.count())

    monkeypatch.setattr(egress, "TARGETS", {"duckdb": slow})
    assert egress.run(arguments(*GIVEN)) == 0
    assert held == [500, 500]


def test_an_unknown_connector_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With those that there are."""
    assert egress.run(arguments("--connectors", "duckbd")) == 2
    assert "'duckbd'" in capsys.readouterr().err
