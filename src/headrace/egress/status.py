"""How an egress stands: its state and counters, to be read from any thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from headrace.errors import HeadraceError

State = Literal["created", "running", "paused", "retrying", "stopped", "failed"]


@dataclass(slots=True)
class EgressCounters:
    """What this process did."""

    records: int = 0
    """Read from the topic; those read again after a retry count again."""
    rows_written: int = 0
    """Written and flushed, deletions not among them."""
    rows_deleted: int = 0
    rows_filtered: int = 0
    deletions_skipped: int = 0
    """Deletions that the mode leaves out."""
    truncates: int = 0
    """Truncations of the source that emptied the target."""
    truncates_skipped: int = 0
    """Those that `truncate: skip` leaves out."""
    dead_letters: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By stage and code."""
    flushes: int = 0
    retries: int = 0
    bytes_written: int = 0
    """Arrow bytes of flushed rows."""
    write_s: float = 0.0
    flush_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EgressStatus:
    """How an egress stands."""

    name: str
    topic: str
    connector: str
    state: State
    delivery: str
    """`exactly_once` or `at_least_once`."""
    positions: Mapping[int, int]
    """Next offset of each assigned partition, as delivered."""
    lag_records: int | None
    """Records of the assigned partitions not yet delivered; None until known."""
    counters: EgressCounters
    error: HeadraceError | None
    breaker: Literal["closed", "open", "probing"] = "closed"
    """`open`: after many failures in a row nothing is tried for a while; `probing`: one attempt is under way."""
