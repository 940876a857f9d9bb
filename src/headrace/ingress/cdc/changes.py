"""Changes of tables as columns, and what a source gives in one go: the seam between databases and topics.

Owns `Changes`, `Read`, and the protocols `Source` and `SourcePosition`, which every database implements.

- A position covers everything that was read up to it; whoever begins there reads what comes after, once.
- A source is told with every `read` where to go on. Where that is not where it stands, it begins anew from there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import pyarrow as pa

from headrace.log.dead_letters import Reason

CREATE, READ, UPDATE, DELETE, TRUNCATE = "c", "r", "u", "d", "t"

Cells: TypeAlias = Sequence[Any] | pa.Array
"""A column of a source's own values."""


class SourcePosition(Protocol):
    """How far a source was read, as the log keeps it."""

    def to_json(self) -> str: ...

    @property
    def sequence(self) -> int:
        """A number for people that grows."""

    @property
    def open_snapshots(self) -> tuple[str, ...]:
        """Tables whose snapshot is under way."""


@dataclass(frozen=True, slots=True)
class SourceLog:
    """What the database keeps of its own log for an ingress, in bytes."""

    behind_bytes: int
    """Written and not yet told to be safe."""
    kept_bytes: int
    """Kept on the database's disk: also what transactions that are still open need."""
    safe_bytes: int | None
    """That may be written until the database gives the ingress up; None without a limit."""
    behind_seconds: float | None = None
    """Age of the last commit that was read while others wait; 0 when none does, None before the first."""


P = TypeVar("P", bound=SourcePosition)


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows of one table as columns, oldest first. A side that an operation does not have is all null."""

    table: str
    operation: Sequence[str]
    sequence: Sequence[int]
    changed_at_ms: Sequence[int]
    before: Mapping[str, Cells]
    after: Mapping[str, Cells]
    bad: Mapping[int, Reason] = field(default_factory=dict, kw_only=True)
    """Changes that the source knows to be none that can be published."""

    has_before: Sequence[bool] | None = field(default=None, kw_only=True)
    """Where the database does not tell every row before a change: whether it did."""

    moved: Sequence[int] = field(default=(), kw_only=True)
    """Deletions whose row goes on under another key: its creation is the change behind each."""

    snapshot: Sequence[str] | None = field(default=None, kw_only=True)
    """Debezium's marks of rows of a snapshot; None: `true` for those that were read."""

    def __len__(self) -> int:
        return len(self.operation)


@dataclass(frozen=True, slots=True)
class Read(Generic[P]):
    """What one read gave."""

    changes: Sequence[Changes]
    position: P
    """The position once all of it is published."""
    lag: int | None
    """Changes left behind, where the source can tell."""
    is_drained: bool
    """No change was left behind, and every snapshot is done."""

    def __len__(self) -> int:
        return sum(map(len, self.changes))


class Source(Protocol[P]):
    """One database, read from one thread: (has_news | read | published | wait)* close."""

    @property
    def log(self) -> SourceLog | None:
        """As it was seen last; None where the database keeps none, or it was not looked at. From any thread."""

    def has_news(self) -> bool:
        """Whether a read may give more than the last one; cheap."""

    def read(self, position: P | None, rows_max: int) -> Read[P]:
        """About `rows_max` changes after `position`, or rows of a snapshot. After a raise the same call comes again."""

    def published(self, position: P) -> None:
        """`position` is committed in the log: what is before it may be forgotten."""

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Come back when there may be news, when `stop` is set, or after so long."""

    def close(self) -> None:
        """Idempotent."""
