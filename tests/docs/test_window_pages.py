"""docs/operators/windows.md and suppress.md: their pipelines give what the pages show, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.operator_page import OperatorPage

from headrace.flow.windows import WINDOWS_PER_RECORD_MAX

PAGES = {name: OperatorPage(name) for name in ("windows", "suppress")}
EXAMPLES = [(name, number) for name, page in PAGES.items() for number in range(len(page.pipelines))]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_the_pipelines_give_the_rows_that_are_shown(name: str, number: int, at_once: bool, tmp_path: Path) -> None:
    """Row by row, and in one batch."""
    page = PAGES[name]
    assert page.result(number, tmp_path, at_once=at_once) == page.outputs[number]


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    """Limits that the page tells; and there are examples of sliding windows, late rows and suppression."""
    assert f"{WINDOWS_PER_RECORD_MAX:,}" in PAGES["windows"].text
    assert len(EXAMPLES) == 3
