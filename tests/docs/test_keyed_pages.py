"""docs/operators: processors, dedupe, top_n, map_async and steps on rows give what their pages show."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.operator_page import DOCS, OperatorPage

from headrace.engine.operators.process_call import ROWS_PER_CALL_MAX, STATE_CHARACTERS_MAX
from headrace.engine.settings import STUCK_AFTER_S
from headrace.flow.functions import TRIES_MAX_MS
from headrace.flow.internal_topics import CHANGELOG_MESSAGE_BYTES_MAX
from headrace.flow.stream import Stream
from headrace.flow.top_n import ROWS_PER_GROUP_MAX

PAGES = {name: OperatorPage(name) for name in ("process", "dedupe", "top-n", "map-async", "rows")}
EXAMPLES = [(name, number) for name, page in PAGES.items() for number in range(len(page.pipelines))]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_the_pipelines_give_the_rows_that_are_shown(name: str, number: int, at_once: bool, tmp_path: Path) -> None:
    """Row by row, and in one batch."""
    page = PAGES[name]
    assert page.result(number, tmp_path, at_once=at_once) == page.outputs[number]


def test_numbers_on_the_pages_are_those_of_the_code() -> None:
    """Limits that the pages tell; and each page has its example."""
    assert len(EXAMPLES) == len(PAGES)
    for number in (ROWS_PER_CALL_MAX, STATE_CHARACTERS_MAX):
        assert f"{number:,}" in PAGES["process"].text
    assert f"1 to {ROWS_PER_GROUP_MAX:,}" in PAGES["top-n"].text
    assert f"at most {TRIES_MAX_MS // 60_000} minutes" in PAGES["map-async"].text
    bad_input = (DOCS / "bad-input.md").read_text(encoding="utf-8")
    assert f"After {STUCK_AFTER_S:.0f} s" in bad_input
    assert f"{CHANGELOG_MESSAGE_BYTES_MAX // 2**20} MiB" in bad_input


def test_every_step_on_rows_is_listed() -> None:
    """The page of row-wise steps names each method of a stream that is one."""
    elsewhere = {"as_table", "dedupe", "group_by", "join", "map_async", "named", "process", "to"}
    steps = {name for name in vars(Stream) | vars(Stream.__mro__[1]) if not name.startswith("_")} - {"columns"}
    missing = {name for name in steps - elsewhere if f"`{name}(" not in PAGES["rows"].text}
    assert missing == set()
