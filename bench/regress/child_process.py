"""Starting a side's process, asking it and ending it.

- Whose headrace it has is checked by where its files are: a wrong path would compare a tree with itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from bench.regress.trees import Side

STOP_TIMEOUT_S = 60.0


class NotComparable(Exception):
    """One side cannot do a workload, or does not start."""


class Child:
    """A process of one side."""

    def __init__(self, side: Side, command: Sequence[str] = ()) -> None:
        self._side = side
        self._folder = tempfile.TemporaryDirectory()  # Not the repository's: its folders would be imported first.
        self.process = subprocess.Popen(
            [*command, sys.executable, "-m", "bench.regress.child"],
            env={**os.environ, **side.environment()},
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hello = self._answer()
        if not self.hello["headrace"].startswith(str(side.root)):
            raise NotComparable(f"{side.name} would be taken from {self.hello['headrace']}")

    def run(self, name: str, records: int) -> float:
        """Processor seconds of one run."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name} {records}\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise NotComparable(f"{self._side.name}: {answer['error']}")
        return float(answer["cpu_seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise NotComparable(f"{self._side.name}: its process ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._folder.cleanup()
