"""A target in memory, and a connector into it that can be told to fail.

Owns what the tests of the runner look at: rows by flush, positions, and every call with its time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Operation,
    Options,
    PositionMoved,
    Refused,
)

Row = dict[str, Any]
ALL_MODES = frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE})


class MemoryOptions(Options):
    """`options:` of the connector under test."""

    table: str = "rows"
    size: int = 1


@dataclass
class Target:
    """What outlives a connector, as a database does."""

    atomic: bool = True
    modes: frozenset[Mode] = ALL_MODES
    partial_update: bool = False
    truncate: bool = False
    refuses_stale: bool = False
    parallel: bool = True
    flushes: list[list[Row]] = field(default_factory=list)
    """Rows of each flush that had any; a deletion is a row with `__delete`."""
    positions: dict[int, int] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)
    """Of each row that was staged."""
    untold: list[tuple[int, str]] = field(default_factory=list)
    """Row of its batch and column of each value that the source did not tell."""
    opened: list[tuple[int, ...]] = field(default_factory=list)
    """Partitions of each `open`."""
    calls: list[tuple[str, float]] = field(default_factory=list)
    fault: Callable[[str], None] = lambda call: None
    """Told each call before it takes effect (`open`, `write`, `flush`, `close`) and `flushed` after; may raise."""
    refuses: Callable[[Row], bool] = lambda row: False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rows(self) -> list[Row]:
        with self.lock:
            return [row for flush in self.flushes for row in flush]

    @property
    def ids(self) -> list[int]:
        return sorted(row["id"] for row in self.rows)

    def times(self, call: str) -> list[float]:
        return [at_s for name, at_s in self.calls if name == call]


class MemoryConnector:
    """A `Connector`."""

    options_model: ClassVar[type[Options]] = MemoryOptions

    def __init__(self, target: Target) -> None:
        self._target = target
        self.capabilities = Capabilities(
            modes=target.modes,
            atomic_positions=target.atomic,
            partial_update=target.partial_update,
            truncate=target.truncate,
            refuses_stale=target.refuses_stale,
            parallel=target.parallel,
        )
        self._staged: list[Row] = []
        self._pending: dict[int, int] = {}
        self._known: dict[int, int] = {}

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        self._staged, self._pending = [], {}
        self._call("open")
        self._target.opened.append(tuple(partitions))
        held = self._target.positions if self._target.atomic else {}
        self._known = {partition: held[partition] for partition in partitions if partition in held}
        return dict(self._known)

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        self._call("write")
        rows: list[Row] = batch.rows.to_pylist()
        refused = [
            Refused(index, "memory.refused", "no") for index, row in enumerate(rows) if self._target.refuses(row)
        ]
        skipped = {each.row for each in refused}
        for index, (row, operation) in enumerate(zip(rows, batch.operation.tolist(), strict=True)):
            if index not in skipped:
                marks = {Operation.DELETE: {"__delete": True}, Operation.TRUNCATE: {"__truncate": True}}
                self._staged.append({**row, **marks.get(operation, {})})
                self._target.versions.append(int(batch.version[index]))
                untold = [name for name, mask in batch.unavailable.items() if mask[index]]
                self._target.untold += [(index, name) for name in untold]
        self._pending.update(positions)
        return refused

    def flush(self) -> None:
        self._call("flush")
        with self._target.lock:
            if self._target.atomic:
                for partition in self._pending:
                    if self._target.positions.get(partition) != self._known.get(partition):
                        raise PositionMoved(f"partition {partition}")
                self._target.positions.update(self._pending)
                self._known.update(self._pending)
            if self._staged:
                self._target.flushes.append(self._staged)
        self._staged, self._pending = [], {}
        self._call("flushed")

    def close(self) -> None:
        self._staged, self._pending = [], {}
        self._call("close")

    def _call(self, name: str) -> None:
        self._target.calls.append((name, time.monotonic()))
        self._target.fault(name)


def failing(call: str, error: Callable[[], BaseException], *, times: int) -> Callable[[str], None]:
    """A fault: the first `times` calls of this name raise."""
    left = [times]

    def fault(now: str) -> None:
        if now == call and left[0]:
            left[0] -= 1
            raise error()

    return fault
