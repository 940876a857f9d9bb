"""The root of every error headrace raises on purpose.

Owns `HeadraceError`, `Fault` and `Where`. Each room defines its own errors beside the code that raises them.

- Every error class has a stable `code` (`room.reason`) and a `fault` that tells its catcher what to do.
- The message names the file, topic, field or offset at fault; `cure` tells the next step.
- A message never carries a secret or a whole record.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar


class Fault(enum.Enum):
    """What the catcher of an error does next."""

    ROW = "row"
    """One record is bad: it becomes a dead letter, the rest goes on."""
    RETRY = "retry"
    """The world is unwell: the same call again, with backoff."""
    STOP = "stop"
    """A user or operator must change something first; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a user's file. `line` counts from 1; 0 means the whole file."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class HeadraceError(Exception):
    """Base of all errors raised on purpose.

    `str(error)` is one paragraph: `where: message; cure`.
    """

    code: ClassVar[str] = "headrace.error"
    fault: ClassVar[Fault] = Fault.STOP

    def __init__(self, message: str, *, where: Where | None = None, cure: str = "") -> None:
        self.message = message
        self.where = where
        self.cure = cure
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f"; {self.cure}" if self.cure else ""
        return f"{place}{self.message}{cure}"
