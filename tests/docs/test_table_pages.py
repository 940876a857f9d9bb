"""docs/operators/table-aggregates.md and streams-and-tables.md: their pipelines give what the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.operator_page import OperatorPage

PAGES = {name: OperatorPage(name) for name in ("table-aggregates", "streams-and-tables")}
EXAMPLES = [(name, number) for name, page in PAGES.items() for number in range(len(page.pipelines))]


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_the_pipelines_give_the_rows_that_are_shown(name: str, number: int, tmp_path: Path) -> None:
    """Row by row."""
    page = PAGES[name]
    assert page.result(number, tmp_path, at_once=False) == page.outputs[number]


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_in_one_batch_no_other_row_comes(name: str, number: int, tmp_path: Path) -> None:
    """A commit tells the last row of each group only."""
    page = PAGES[name]
    told = page.result(number, tmp_path, at_once=True)
    assert told
    assert all(row in page.outputs[number] for row in told)


def test_there_are_examples_of_all_kinds() -> None:
    """Aggregates, groups of groups and one's own; a table of a stream, and a stream of a table."""
    assert len(EXAMPLES) == 5
