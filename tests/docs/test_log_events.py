"""Log events have stable names, and docs/operating.md lists each with its level."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / "headrace"
PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
LISTED = re.compile(r"^\| `([a-z_]+)` \| (\w+(?:, \w+)*) \| ", re.MULTILINE)
LOGGERS = {"log", "_log", "logger", "_logger"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
NAME = re.compile(r"[a-z]+(_[a-z]+)+|waiting|rebalance")
FROM_RECORDS = {"key", "value", "values", "row", "record", "payload"}
"""Names under which a record's content would be logged; `key` of the control topic is a name of headrace's own."""
OWN_KEYS = {"control_entry_unreadable"}
ABOUT_ANOTHER = {"pipeline_stays_stopped"}
"""Told by a command about a pipeline that does not run in its process."""


@dataclass(frozen=True)
class Event:
    """One call of a logger."""

    place: str
    name: object
    level: str
    fields: frozenset[str]


def events() -> Iterator[Event]:
    """Every call of a structured logger in the source."""
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "structlog" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            logger = node.func.value
            if not isinstance(logger, ast.Name) or logger.id not in LOGGERS or node.func.attr not in {*LEVELS, "log"}:
                continue
            argument = node.args[1] if node.func.attr == "log" else node.args[0]
            name = argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)
            level = "warning" if node.func.attr == "log" else node.func.attr
            fields = frozenset(keyword.arg for keyword in node.keywords if keyword.arg is not None)
            yield Event(f"{path.relative_to(ROOT)}:{node.lineno}", name, level, fields)


EVENTS = list(events())


def test_there_are_events() -> None:
    """The search finds what it looks for, in every room that logs."""
    assert {"transaction_aborted", "worker_crashed", "kafka_unreachable"} <= {event.name for event in EVENTS}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.place)
def test_names_are_stable(event: Event) -> None:
    """A name is a constant of words with underscores: what varies is in the fields."""
    assert isinstance(event.name, str)
    assert NAME.fullmatch(event.name), event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.place)
def test_no_record_is_logged(event: Event) -> None:
    """Fields have no key, value or row of a record; a pipeline's name and instance come from the context."""
    if event.name not in OWN_KEYS:
        assert not event.fields & FROM_RECORDS, event
    assert "pipeline" not in event.fields or event.name in ABOUT_ANOTHER, event


def test_every_event_is_listed_and_no_other() -> None:
    """With every level that it comes with."""
    found: dict[str, set[str]] = {}
    for event in EVENTS:
        if event.level != "debug":
            found.setdefault(str(event.name), set()).add(event.level)
    section = PAGE.split("\n## Logs\n")[1].split("\n## ")[0]
    assert {name: set(levels.split(", ")) for name, levels in LISTED.findall(section)} == found
