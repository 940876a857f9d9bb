"""A bound on the memory that state takes.

Owns when a worker reads nothing more because it holds too much, and when it goes on.

- State lives in memory. Beyond the limit the worker stays in its group, commits what it has, pauses all its inputs and
  says why; nothing is lost and nothing is dropped. Better that than an end by the operating system's hand, which comes
  again after each restore.
- It goes on by itself when the state shrinks: when more workers take their part of the partitions.
- The limit is soft: it is looked at between batches, and counts what operators know of their own memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from headrace.engine.assembly import Assembly
from headrace.errors import Fault, HeadraceError

MEMORY_SHARE = 0.6
"""Of what the machine or container has, where no limit is set: the rest is for batches, Python and the clients."""
LOOK_INTERVAL_S = 0.25
"""Between two looks the state grows by some ten megabytes at most."""
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

log = structlog.get_logger("headrace.engine")


class StateTooLarge(HeadraceError):
    """The state of a pipeline's steps is larger than a worker may hold. Told as the reason why it waits."""

    code = "engine.state_too_large"
    fault = Fault.RETRY

    def __init__(self, pipeline: str, held: Mapping[str, int], limit_bytes: int) -> None:
        step = max(held, key=lambda name: held[name])
        super().__init__(
            f"{pipeline} holds {_megabytes(sum(held.values()))} of state, more than its limit of "
            f"{_megabytes(limit_bytes)}; the most of it, {_megabytes(held[step])}, in step {step!r}",
            cure="start more workers, which take their part of it, raise state_memory_mb_max, or keep less: "
            "shorter windows and times, fewer columns",
        )


class MemoryGuard:
    """Pauses a worker's inputs while its state is too large."""

    def __init__(self, pipeline: str, limit_bytes: int | None) -> None:
        self._pipeline = pipeline
        self._limit_bytes = limit_bytes if limit_bytes is not None else int(memory_bytes() * MEMORY_SHARE)
        self._looked_at_s = 0.0
        self._excess: StateTooLarge | None = None

    def hold(self, parts: Assembly, now_s: float) -> StateTooLarge | None:
        """Pause or resume what the worker reads; why it is paused, if it is."""
        if now_s - self._looked_at_s >= LOOK_INTERVAL_S:
            self._looked_at_s = now_s
            self._look(parts)
        if self._excess is not None:
            # Again each time: partitions come, and others resume theirs.
            parts.consumer.pause(sorted(parts.tasks.active()))
        return self._excess

    def _look(self, parts: Assembly) -> None:
        held = state_bytes(parts)
        is_over = sum(held.values()) > self._limit_bytes
        if is_over:
            before, self._excess = self._excess, StateTooLarge(self._pipeline, held, self._limit_bytes)
            if before is None:
                log.warning("reading_stopped", code=self._excess.code, reason=str(self._excess))
        elif self._excess is not None:
            self._excess = None
            parts.consumer.resume(sorted(parts.tasks.active() - parts.paused))
            log.info("reading_again")


def state_bytes(parts: Assembly) -> dict[str, int]:
    """Memory that each step's state takes, about; tables that are looked up included."""
    held: dict[str, int] = {}
    for task in parts.tasks.tasks:
        lookups = {name: each.state_bytes() for name, each in task.runner.lookups.items()}
        stateful = {name: each.state_bytes() for name, each in task.runner.stateful.items()}
        for name, count in {**lookups, **stateful}.items():
            held[name] = held.get(name, 0) + count
    return held


def memory_bytes() -> int:
    """What this process may use at most: the machine's memory, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text().strip() for path in CGROUP_LIMITS if path.exists()]
    return min([machine, *(int(text) for text in limits if text.isdigit())])


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:,.1f} MB"
