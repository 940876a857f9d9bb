"""The first worker's word to its supervisor: the environment is as the workspace says, and others may start.

Owns the pipe between the two and what is written to it.

- `headrace run` starts its first worker at once and lets it look at the environment: to look itself, before it starts
  anything, would cost it every import of a worker, a second that everybody waits for.
- The word is the environment's name and a line's end: fewer bytes than a pipe may break in two.
- The writing end stays open here, so that a first worker that died before its word can be started again.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

WORD_BYTES_MAX = 512
"""`PIPE_BUF` is no smaller anywhere; names of environments are 64 characters at most."""


class FirstWord:
    """The supervisor's side. One thread."""

    def __init__(self) -> None:
        self._reader, self.descriptor = os.pipe()
        os.set_blocking(self._reader, False)
        self._environment: str | None = None

    @property
    def environment(self) -> str | None:
        """The environment's name; None as long as the worker has not told it. Does not block."""
        if self._environment is None:
            try:
                word = os.read(self._reader, WORD_BYTES_MAX)
            except BlockingIOError:
                return None
            self._environment = word.decode().removesuffix("\n")
        return self._environment

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._reader)
        os.close(self.descriptor)


def tell(descriptor: int, environment: str) -> None:
    """The worker's side: say it, once, through the descriptor that it was started with."""
    word = f"{environment}\n".encode()
    assert len(word) <= WORD_BYTES_MAX
    try:
        os.write(descriptor, word)
    finally:
        os.close(descriptor)
