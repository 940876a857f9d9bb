"""docs/queries.md tells the bounds, the statuses and the shape of answers that the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from headrace.engine import orders
from headrace.engine.contact import SILENCE_MAX_S
from headrace.workspace import tables
from headrace.workspace.config import HttpConfig
from headrace.workspace.table_keys import _READERS
from headrace.workspace.tables import Piece
from headrace.workspace.tables_http import LIMIT, WINDOW_START, TablesHttp

TEXT = (Path(__file__).parent.parent.parent / "docs" / "queries.md").read_text(encoding="utf-8")


def test_the_bounds() -> None:
    """Of rows, time, silence, and questions that wait."""
    assert f"({tables.LIMIT_DEFAULT} by default, {tables.LIMIT_MAX:,} at most)" in TEXT
    assert f"waits at most {tables.ANSWER_TIMEOUT_S:g} s" in TEXT
    assert f"at most {tables.QUESTIONS_MAX} wait in one process, and {orders.QUESTIONS_MAX} for one pipeline" in TEXT
    assert f"for more than {SILENCE_MAX_S:g} s" in TEXT


def test_an_answer_has_the_keys_that_are_shown() -> None:
    """No more and no less; the rows are those of a page, so they may be anything."""
    (shown,) = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    assert set(shown) == {"found", "table", *Piece().as_json()}
    assert len(shown["rows"]) == len(shown["pending"])


def test_parameters_settings_and_types() -> None:
    """The words that may be written."""
    assert f"A key column called `{LIMIT}` or `{WINDOW_START}`" in TEXT
    assert set(HttpConfig.model_fields) >= set(re.findall(r"^(\w+) = .*# (?:of a|how)", TEXT, re.MULTILINE))
    for kind in _READERS:
        word = {"DECIMAL_TEXT": "decimal", "BIG_DECIMAL": "decimal", "LOCAL_TIMESTAMP": "timestamp"}.get(
            kind.name, kind.name.lower()
        )
        assert re.search(rf"^\| [^|]*\b{word}\b[^|]*\| ", TEXT, re.MULTILINE), kind


def test_metrics_are_told() -> None:
    """By the name that a query uses."""
    registry = CollectorRegistry()
    TablesHttp(tables=None, registry=registry)  # type: ignore[arg-type]
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in registry.collect()}
    assert set(re.findall(r"`(headrace_\w+)`", TEXT)) == names
