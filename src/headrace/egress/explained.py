"""What a dry run shows of many rows: the first ones, each on one line of bounded length.

Owns those bounds, for connectors that show what they would send (`Explains`).

- Nothing of a row reaches the terminal that could steer it: what does not print is escaped.
"""

from __future__ import annotations

ROWS_MAX = 5
"""Rows, or files, of one batch that are shown."""
CHARACTERS_MAX = 500
"""Of a line; a row may have megabytes."""


def shown(text: str | bytes, characters_max: int = CHARACTERS_MAX) -> str:
    """The beginning of a text on one line, with how much was left out."""
    # Bytes are cut first: a character has at most four of them.
    begin = text[: 4 * (characters_max + 1)]
    decoded = begin.decode(errors="backslashreplace") if isinstance(begin, bytes) else begin
    cut = "".join(each if each.isprintable() else _escaped(each) for each in decoded[:characters_max])
    return cut if len(decoded) <= characters_max else f"{cut}... ({len(text):,} in all)"


def left_out(count: int, what: str) -> list[str]:
    """The line that says how many are not shown; none where all are."""
    return [f"-- and {count:,} more {what}"] if count > 0 else []


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
