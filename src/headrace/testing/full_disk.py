"""A disk without room, for tests of what is written to one.

Owns nothing but a limit of this process, so that it needs no rights and no disk of its own: no file grows beyond it.
The operating system says `EFBIG` then where a full disk says `ENOSPC`, to the same calls.

- Everything in this process is limited meanwhile: keep the log in memory (`MemoryLog`).
- What is in a file already can be read and written.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_room(bytes_max: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes, until the end."""
    former, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (former, most))
