"""Lines of keys in a TOML file.

Owns the search for the line of a key, which `tomllib` does not tell.

- Works on text that `tomllib` has already parsed, so only layout is read here, never values.
- A key that cannot be found (inside an inline table or a string) gives the line of the nearest table or key above it.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str, ...]

_TABLE = re.compile(r"^\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_SYNTAX_LINE = re.compile(r"at line (\d+)")


class TomlLines:
    """Where each table and key of one TOML text begins."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        table: Path = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := _TABLE.match(line):
                table = _split(header.group(1))
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._lines.setdefault((*table, *_split(key.group(1))), number)

    def line_of(self, path: Path) -> int:
        """The line of `path`, else of the nearest part above it, else 0."""
        for length in range(len(path), 0, -1):
            if (line := self._lines.get(path[:length])) is not None:
                return line
        return 0


def syntax_error_line(error: tomllib.TOMLDecodeError) -> int:
    """The line that `tomllib` complains about; 0 when it is at the end of the document."""
    found = _SYNTAX_LINE.search(str(error))
    return int(found.group(1)) if found else 0


def _split(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
