"""Where Arrow takes its memory from.

Owns the choice of the process's Arrow allocator, made when a worker takes up its work.

- Arrow's own allocator gives pages back ten milliseconds after their use and takes them anew with the next commit:
  clearing them was a tenth of the time of a job with 100,000 keys. The allocator of the system keeps them.
- Who has chosen one (`ARROW_DEFAULT_MEMORY_POOL`) keeps it.
"""

from __future__ import annotations

import os

import pyarrow as pa

CHOICE = "ARROW_DEFAULT_MEMORY_POOL"


def use_system_allocator() -> None:
    """For all that is allocated from now on; what there is stays where it is."""
    if not os.environ.get(CHOICE):
        pa.set_memory_pool(pa.system_memory_pool())
