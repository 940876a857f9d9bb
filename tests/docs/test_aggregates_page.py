"""docs/aggregates.md: its pipelines run, and give the rows that the page shows."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.engine.harness import Harness

from headrace.contracts.load import load_contract
from headrace.contracts.polars_types import to_polars
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.aggregate_types import FUNCTIONS
from headrace.flow.load import load_pipelines
from headrace.log.embedded import EmbeddedLog

PAGE = Path(__file__).parent.parent.parent / "docs" / "aggregates.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = BLOCK.findall(TEXT)
PIPELINES = [text for language, text in BLOCKS if language == "python"]
SHOWN = [json.loads(text) for language, text in BLOCKS if language == "json"]


def in_types(row: dict[str, Any]) -> dict[str, Any]:
    """JSON's text as times and decimals."""
    times = {"ended_at", "window_start", "window_end"}
    made: dict[str, Any] = {}
    for name, value in row.items():
        if name in times:
            made[name] = datetime.fromisoformat(value)
        else:
            made[name] = Decimal(value) if name in ("fare", "total") and value is not None else value
    return made


@pytest.mark.parametrize("number", range(len(PIPELINES)))
def test_the_pipelines_give_the_rows_that_are_shown(number: int, tmp_path: Path) -> None:
    """Each Python block, run over the page's rows in one partition, writes the JSON block that follows it."""
    (contract_text,) = (text for language, text in BLOCKS if language == "yaml")
    contract_file, pipeline_file = tmp_path / "rides.yaml", tmp_path / "rides.py"
    contract_file.write_text(contract_text)
    pipeline_file.write_text(PIPELINES[number])
    contract = load_contract(contract_file)
    (compiled,) = load_pipelines(pipeline_file, {contract.topic: contract})
    rows, wanted = [in_types(row) for row in SHOWN[0]], [in_types(row) for row in SHOWN[1 + number]]
    assert set(rows[0]) == set(to_polars(contract.schema))
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        at_work = Harness(log, MemoryRegistry(), [contract], compiled, partitions=1)
        at_work.publish(contract.topic, rows)
        (output,) = compiled.plan.outputs
        at_work.run_until_caught_up(and_then=lambda: len(at_work.rows(output.topic)) >= len(wanted))
        found = at_work.rows(output.topic)
    assert sorted(found, key=lambda row: (row["city"], row["window_start"])) == wanted


def test_every_pipeline_has_its_rows() -> None:
    """One block of input, and one of output for each pipeline."""
    assert len(PIPELINES) >= 2
    assert len(SHOWN) == 1 + len(PIPELINES)


def test_every_aggregate_is_described() -> None:
    """In the table, and with its memory."""
    table, memory = TEXT.split("### Memory")
    for function in FUNCTIONS:
        name = "a class of your own" if function == "custom" else f"`{function}"
        assert re.search(rf"^\|.*{re.escape(name)}", table, re.MULTILINE), function
        assert re.search(rf"^\|.*{re.escape(name)}", memory, re.MULTILINE), function


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    """Limits that the page tells."""
    from headrace.engine.changelog import MESSAGE_BYTES_MAX
    from headrace.flow.aggregate_types import COLLECT_LIMIT_DEFAULT, COLLECT_LIMIT_MAX, TOP_K_MAX

    for number in (COLLECT_LIMIT_MAX, TOP_K_MAX):
        assert f"{number:,}" in TEXT
    assert f"limit={COLLECT_LIMIT_DEFAULT}" in TEXT
    assert f"{MESSAGE_BYTES_MAX // 1000} kB" in TEXT
