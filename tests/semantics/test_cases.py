"""The semantic cases pass, however their inputs are cut; and the runner does fail where a result is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.semantics.comparing import Row, difference_by_batch, difference_by_input
from tests.semantics.run_cases import cuts, failure, main

FILE = Path(__file__).parent / "cases.json"
MORE = Path(__file__).parent / "more_cases.json"
"""Cases of our own, for what `cases.json` does not use of the format."""
CASES: list[dict[str, Any]] = [case for file in (FILE, MORE) for case in json.loads(file.read_text(encoding="utf-8"))]
BY_NAME = {case["name"]: case for case in CASES}


CUTS_MAX = 16
"""Cuts of a case here: all, for up to five inputs. The runner's `--splits all` has more."""


@pytest.mark.parametrize("name", BY_NAME)
def test_case(name: str) -> None:
    """Results are those that the case expects, record by record and with other cuts."""
    case = BY_NAME[name]
    splits = "all" if 2 ** (len(case["inputs"]) - 1) <= CUTS_MAX else f"random:{CUTS_MAX}"
    assert failure(case, splits) is None


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**BY_NAME[name], **fields}


def test_a_wrong_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with name and first difference, the counts, exit status 1; a chosen case runs alone."""
    case = BY_NAME["tumble_bounds"]
    wrong = {**case, "name": "wrong", "expected": case["expected"][:-1]}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([case, wrong]))
    assert main([str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["wrong: after input 4: expected [], got [k[20,30]=1@20]", "1 passed, 1 failed"]
    assert main([str(file), str(FILE), "--case", "tumble_bounds"]) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed\n"
    with pytest.raises(SystemExit):
        main([str(file), "--splits", "some"])


def test_dropped_records_are_compared() -> None:
    """With any cut."""
    case = changed("null_value_is_ignored_when_not_windowed", dropped=0)
    assert failure(case, "one") == "1 records dropped, not 0"


def test_a_case_that_cannot_run_fails() -> None:
    """With the reason."""
    assert failure(changed("tumble_bounds", window={"type": "round"}), "one") is not None


def test_cuts() -> None:
    """Every cut of few inputs, seeded ones of many; each covers all inputs."""
    assert sorted(cuts("a", 3, "all")) == [[1, 1, 1], [1, 2], [2, 1], [3]]
    many = list(cuts("a", 20, "all"))
    assert len(many) == 256
    assert all(sum(sizes) == 20 for sizes in many)
    assert many == list(cuts("a", 20, "all"))
    assert len(list(cuts("a", 5, "random:7"))) == 7
    assert list(cuts("a", 1, "all")) == [[1]]


def row(value: str | None, ts: int, key: str = "k", start: int | None = None) -> Row:
    return Row(key, start, None if start is None else start + 10, value, ts)


UPDATES = {
    "kind": "aggregate",
    "inputs": [{}, {}, {}],
    "expected": [{"key": "k", "value": str(n + 1), "ts": n, "after": n} for n in range(3)],
}


def test_updates_may_skip_what_is_replaced_in_the_same_batch() -> None:
    """And nothing else: not the last of a batch, not a row that never was, not the end."""
    one_by_one = [row("1", 0), row("2", 1), row("3", 2)]
    good = [(row("2", 1), 0), (row("3", 2), 1)]
    assert difference_by_batch(UPDATES, good, [2, 1], one_by_one) is None
    assert "is missing" in (difference_by_batch(UPDATES, good, [1, 2], one_by_one) or "")
    assert "no cut could show" in (difference_by_batch(UPDATES, [(row("9", 1), 0), *good], [2, 1], one_by_one) or "")
    assert "in the end" in (difference_by_batch(UPDATES, good[:1], [2, 1], one_by_one) or "")
    assert "too often" in (difference_by_batch(UPDATES, [good[0], *good], [2, 1], one_by_one) or "")


def test_final_results_come_in_order() -> None:
    """By window and key inside a batch."""
    case = {
        "kind": "aggregate",
        "emit": "on_window_close",
        "inputs": [{}],
        "expected": [
            {"key": key, "value": "1", "ts": 0, "after": 0, "window_start": 0, "window_end": 10} for key in ("a", "b")
        ],
    }
    rows = [(row("1", 0, "a", 0), 0), (row("1", 0, "b", 0), 0)]
    assert difference_by_batch(case, rows, [1], []) is None
    assert "order" in (difference_by_batch(case, rows[::-1], [1], []) or "")


def test_the_last_row_of_a_key_and_input_may_be_all_that_counts() -> None:
    """Where the case says so; else every row counts, in order or not."""
    case = {
        "join_type": "table_table_fk_inner",
        "inputs": [{}],
        "expected": [{"key": "k", "value": "b", "ts": 0, "after": 0}],
    }
    found = [(row(None, 0), 0), (row("b", 0), 0)]
    assert difference_by_input({**case, "match": "last_per_key_per_input"}, found) is None
    assert difference_by_input({**case, "match": "exact"}, found) is not None
    twice = {**case, "expected": [*case["expected"], {"key": "k", "value": None, "ts": 0, "after": 0}]}
    assert difference_by_input({**twice, "match": "unordered_within_input"}, found) is None
    assert difference_by_input({**twice, "match": "exact"}, found) is not None
