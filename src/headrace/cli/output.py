"""How commands speak: tables, JSON, errors.

Owns the look of all answers and the process's exit codes.

- Answers go to standard output; errors, questions and progress to standard error.
- On a terminal a listing is a table with colour; elsewhere it is aligned text, one row a line, without colour.
- JSON is one document for a listing and one object a line for a stream of records.
- Colour never carries meaning alone.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_CHANGES = 2
"""`headrace plan` found something to change. Also the shell's usual code for wrong usage."""
EXIT_INTERRUPTED = 130

TRACEBACK_VARIABLE = "HEADRACE_TRACEBACK"


def console(*, stderr: bool = False) -> Console:
    """A console that knows whether it is a terminal. `NO_COLOR` is honoured."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line of an answer."""
    print(text, flush=True)


def note(text: str) -> None:
    """One line beside the answer: progress, hints."""
    print(text, file=sys.stderr, flush=True)


def emit_json(value: object) -> None:
    """A listing's JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str), flush=True)


def json_line(value: object) -> str:
    """One record of a stream of JSON lines."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """A listing: a table on a terminal, aligned text elsewhere. Numbers stand right."""
    texts = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        _rich_table(columns, texts, numeric, title)
        return
    widths = [max(len(line[i]) for line in [list(columns), *texts]) for i in range(len(columns))]
    for line in [list(columns), *texts]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        say("  ".join(cells).rstrip())


def time_text(time_ms: int | None) -> str:
    """A moment as ISO 8601 in UTC; empty for None."""
    if time_ms is None:
        return ""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def print_error(error: HeadraceError) -> None:
    """An error raised on purpose: one paragraph with its code, place and cure."""
    paragraph = f"error[{error.code}] {error}"
    if sys.stderr.isatty() and "\n" not in paragraph:
        paragraph = textwrap.fill(paragraph, width=max(_terminal_width(), 40), break_long_words=False)
    note(paragraph)


def print_unexpected(error: BaseException) -> None:
    """An error nobody raised on purpose: what it is and how to see where it came from."""
    text = str(error).strip() or "no message"
    note(f"error[unexpected] {type(error).__name__}: {text}")
    note(f"this is a mistake in headrace or in its surroundings; {TRACEBACK_VARIABLE}=1 shows the traceback")


def wants_traceback() -> bool:
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _rich_table(columns: Sequence[str], texts: Sequence[Sequence[str]], numeric: Sequence[bool], title: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for name, right in zip(columns, numeric, strict=True):
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for line in texts:
        shown.add_row(*[Text(cell) for cell in line])
    console().print(shown)


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 100
