"""docs/operators/stream-joins.md and table-lookups.md: their pipelines give what the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.operator_page import OperatorPage

PAGES = {name: OperatorPage(name) for name in ("stream-joins", "table-lookups")}
EXAMPLES = [(name, number) for name, page in PAGES.items() for number in range(len(page.pipelines))]


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_the_pipelines_give_the_rows_that_are_shown(name: str, number: int, tmp_path: Path) -> None:
    """Row by row."""
    page = PAGES[name]
    assert page.result(number, tmp_path, at_once=False) == page.outputs[number]


@pytest.mark.parametrize(("name", "number"), [each for each in EXAMPLES if each != ("table-lookups", 0)])
def test_they_give_the_same_in_one_batch(name: str, number: int, tmp_path: Path) -> None:
    """But for the join with the latest row: rows of one batch are merged by event time before they meet."""
    page = PAGES[name]
    assert page.result(number, tmp_path, at_once=True) == page.outputs[number]


def test_there_are_examples_of_all_kinds() -> None:
    """Left and self; latest, as of, broadcast."""
    assert len(EXAMPLES) == 5
