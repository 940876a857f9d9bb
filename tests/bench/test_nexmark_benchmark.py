"""`python -m bench nexmark`: what it prints, and that it notices a wrong answer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from bench.nexmark import benchmark
from bench.nexmark.catalog import QUERIES

from bench import __main__ as bench

PAGE = Path(__file__).parent.parent.parent / "docs" / "nexmark.md"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench", "nexmark", "--events", "2000", *arguments])
    return bench.main()


def test_each_run_is_a_line_of_json(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Queries without a tick come first; a query is charged with the records that it reads alone."""
    assert run(monkeypatch, "--queries", "q11,q2,q17", "--rounds", "2", "--json") == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["query"] for row in rows] == ["q2", "q17", "q2", "q17", "q11", "q11"]
    for row in rows:
        assert (row["events"], row["records"], row["log"], row["correct"]) == (2000, 1840, "embedded", True)
        assert row["cpu_seconds"] > 0


def test_a_wrong_answer_fails_the_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The exit status is 1, the line says WRONG and the difference goes to standard error."""
    other = replace(QUERIES["q2"], sql="select auction, price from bids where auction % 100 = 0")
    monkeypatch.setattr(benchmark, "QUERIES", {"q2": other})
    assert run(monkeypatch, "--queries", "q2") == 1
    shown = capfd.readouterr()
    assert "WRONG" in shown.out
    assert "q2: DataFrames are different" in shown.err


def test_an_unknown_query_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which there are."""
    with pytest.raises(SystemExit, match=re.escape("unknown query 'q6': one of q0, q1")):
        run(monkeypatch, "--queries", "q6")


def test_every_query_is_documented() -> None:
    """The page has a row for each query that says how it is expressed, and one with its figures."""
    rows = re.findall(r"^\| \[?(q\d+)\b", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: rows.count(name) for name in QUERIES} == dict.fromkeys(QUERIES, 2)
