"""Where Arrow takes its memory from while changelogs are written.

Owns the switch to the system's allocator and back.

- Arrow's own allocator gives pages back ten milliseconds after their use and takes them anew with the next commit:
  for buffers that are made and dropped once a commit, clearing pages cost as much as filling them. The system's keeps
  them. For batches that come and go without a pause Arrow's own is the better one.
- The choice is of the process: what other threads allocate meanwhile comes from there too, and is freed there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

_USUAL = pa.default_memory_pool()
"""Of the process: two workers may write at once, and neither may take the other's choice for it."""


@contextmanager
def system_allocator() -> Iterator[None]:
    """What Arrow allocates meanwhile is the system's."""
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(_USUAL)
