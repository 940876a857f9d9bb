"""Where a worker serves HTTP, if anywhere.

Owns the numbers. What serves is in `headrace.workspace.http_server`, which a worker that serves nothing never loads.
"""

from __future__ import annotations

OFF = 0
"""The port that means: serve nothing."""
PORT_MAX = 65_535


def worker_port(base: int, number: int) -> int:
    """The port of worker `number` of a machine, counted from 0."""
    return OFF if base == OFF else base + number
