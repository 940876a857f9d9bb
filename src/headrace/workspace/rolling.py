"""Whether a worker process does its work, told from outside by its status files.

Owns the rule by which a rolling restart goes on.

- Every pipeline has its tasks and knows its lag, or stands still by order; every ingress and egress has come up, or
  leaves the work to another process.
- A pipeline without tasks is up after `SETTLED_MS`: there are more workers than partitions.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, read_statuses

SETTLED_MS = 5_000
"""Longer than a group takes to give a new member its share."""

Key = tuple[ComponentKind, str]

_AT_REST = frozenset({ComponentState.PAUSED, ComponentState.STOPPED})
_UP = _AT_REST | {ComponentState.RUNNING, ComponentState.STANDBY, ComponentState.RETRYING}


def is_up(root: Path, environment: str, pid: int, components: Collection[Key]) -> bool:
    """Whether process `pid` runs all these components."""
    statuses = {
        (each.kind, each.name): each
        for each in read_statuses(root)
        if (each.pid, each.environment) == (pid, environment)
    }
    return all(key in statuses and _is_up(statuses[key]) for key in components)


def _is_up(status: ComponentStatus) -> bool:
    if status.kind is not ComponentKind.PIPELINE:
        return status.state in _UP
    if status.state in _AT_REST:
        return True
    if status.state is not ComponentState.RUNNING:
        return False
    if status.tasks:
        return bool(status.lag)
    return status.written_at_ms - status.started_at_ms >= SETTLED_MS
