"""docs/operators/table-joins.md: its pipelines give what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.operator_page import OperatorPage

from headrace.engine.operators.foreign_resolve import FORGET_AFTER_MS

PAGE = OperatorPage("table-joins")
NUMBERS = range(len(PAGE.pipelines))


@pytest.mark.parametrize("number", NUMBERS)
def test_the_pipelines_give_the_rows_that_are_shown(number: int, tmp_path: Path) -> None:
    """Row by row."""
    assert PAGE.result(number, tmp_path, at_once=False) == PAGE.outputs[number]


@pytest.mark.parametrize("number", NUMBERS)
def test_in_one_batch_the_last_row_of_each_key_comes(number: int, tmp_path: Path) -> None:
    """And no other."""
    told = PAGE.result(number, tmp_path, at_once=True)
    last = {row["customer_id"]: row for row in PAGE.outputs[number]}
    assert {row["customer_id"]: row for row in told} == last
    assert all(row in PAGE.outputs[number] for row in told)


def test_the_page_tells_the_limits_of_the_code() -> None:
    """Both kinds of join, and how long an ended key is remembered."""
    assert len(NUMBERS) == 2
    assert FORGET_AFTER_MS == 60 * 60 * 1_000
    assert "gone on by an hour" in PAGE.text
