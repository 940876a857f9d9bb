"""Settings of a worker, with their bounds, and what it reports.

Owns values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.engine.snapshots import ObjectSnapshots

BATCH_RECORDS_MAX = 80_000
"""Most records asked of one poll, see `batch_size`. Beside 20,000 a filter costs about a tenth less a record."""
BATCH_RECORDS_LIMIT = 1_000_000
"""No more may be asked for: a poll's records are in memory at once."""
IDLE_AFTER_MS = 500
"""A partition without input for this long, with nothing left in the log, stops holding back the closing time of
tasks downstream. Its later rows are judged by their own stream time and by what is already closed."""
STUCK_AFTER_S = 30.0
"""No pass over a batch takes so long, unless a user's function does."""
SNAPSHOT_INTERVAL_S = 300.0
INPUT_ROWS_MAX = 500_000
"""Rows waiting for another input before their partitions are paused."""
INPUT_BYTES_MAX = 256_000_000
"""The same for rows that are large."""
TRANSACTION_BYTES_MAX = 256_000_000
"""Values read in one transaction before it is committed, though its interval is not over: they are kept until then, for
dead letters."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one pipeline runs in one process.

    `instance` is stable per worker slot and unique among running workers: it makes the transactional id, so that a
    restarted worker fences its former self at once.
    """

    workspace: str
    instance: str
    batch_records_max: int = BATCH_RECORDS_MAX
    commit_interval_ms: int | None = None
    """None: the pipeline's own."""
    idle_after_ms: int = IDLE_AFTER_MS
    state_bytes_max: int | None = None
    """Beyond it the worker reads nothing more (`headrace.engine.memory_guard`); None: a share of the machine's."""
    stuck_after_s: float = STUCK_AFTER_S
    """A step that works longer than this on one pass is reported by name."""
    static_member: bool = False
    """Whether `instance` names the member of the group too, so that a restart moves no partition."""
    state_folder: Path | None = None
    """Where this machine keeps copies of changelogs (`headrace.engine.local_state`); None: nowhere."""
    environment: str = ""
    """Of the workspace: names the snapshots."""
    snapshots: ObjectSnapshots | None = None
    """Where copies of these copies are kept for other machines; None: nowhere."""
    snapshot_interval_s: float = SNAPSHOT_INTERVAL_S
    """Of each partition, at most so often."""


@dataclass(frozen=True, slots=True)
class TopicLag:
    """How far a worker is behind the ends of its partitions of one topic (see `headrace.engine.lag`)."""

    records: int
    seconds: float | None
    """None while nothing was read from a partition that has records."""


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far the restore of a worker's state is, over all that it restores at once."""

    records_done: int
    records_to_do: int
    """In all, those done among them: distances in the log, so marks of transactions count."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A moment of a running worker. Counts are since its start; times are milliseconds since the epoch."""

    pipeline: str
    instance: str
    state: str
    """starting, restoring, running, waiting (the log or registry does not answer), stopped, failed"""
    started_ms: int
    updated_ms: int
    tasks: tuple[str, ...] = ()
    records_in: int = 0
    rows_out: int = 0
    commits: int = 0
    aborts: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By `step:reason`."""
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """By `step:stage:code`."""
    stream_time_ms: int | None = None
    """The smallest over this worker's source partitions."""
    state_keys: int = 0
    state_bytes: int = 0
    records_per_second: float = 0.0
    """Over the last report interval."""
    records_restored: int = 0
    """Read from changelogs and tables to rebuild state."""
    state_bytes_loaded: int = 0
    """Of state, from this machine's disk or from snapshots."""
    restore: RestoreProgress | None = None
    """While it restores."""
    lag: Mapping[str, TopicLag] = field(default_factory=dict)
    """By topic; empty while it is not known."""
    step_rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Rows by step and `in` or `out`; of a sink `out` are records written, of a source `in` are records read."""
    step_state_keys: Mapping[str, int] = field(default_factory=dict)
    step_state_bytes: Mapping[str, int] = field(default_factory=dict)
    snapshots: Mapping[str, int] = field(default_factory=dict)
    """Copies of state sent to the object store, by what became of them: `stored`, `failed`."""
    rebalances: Mapping[str, int] = field(default_factory=dict)
    """By `assigned`, `revoked`, `lost`: how often partitions came or went."""
    fenced: int = 0
    """Aborts because another one took over."""
    clients_anew: Mapping[str, int] = field(default_factory=dict)
    """By `producer`, `all`: how often a client of the log had to be made again."""
    rows_waiting: int = 0
    """Read, and waiting for another input."""
    partitions_paused: int = 0
    """Not read for now: other inputs catch up, or memory is full."""
    message: str = ""
    """What it waits for, or why it failed."""
    is_stuck: bool = False
    """Whether its thread does not come back from a step or a call."""
