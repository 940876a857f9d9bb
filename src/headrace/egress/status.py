"""How an egress stands: its state and counters, to be read from any thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args

from headrace.errors import HeadraceError

State = Literal["failed", "retrying", "running", "created", "paused", "stopped"]
"""Of several tasks the first of these is that of the egress: it is paused, or stopped, when all of them are. A task
without partitions stays `created`."""
Breaker = Literal["open", "probing", "closed"]
"""The same."""


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
    breaker: Breaker = "closed"
    """`open`: after many failures in a row nothing is tried for a while; `probing`: one attempt is under way."""


def together(tasks: Sequence[EgressStatus]) -> EgressStatus:
    """How an egress stands whose tasks stand so: sums, and the worst state with its error."""
    if len(tasks) == 1:
        return tasks[0]
    worst = min(tasks, key=lambda each: get_args(State).index(each.state))
    positions: dict[int, int] = {}
    for each in tasks:
        # A partition that goes from one task to another may be told by both.
        positions |= {here: max(offset, positions.get(here, 0)) for here, offset in each.positions.items()}
    lags = [each.lag_records for each in tasks if each.lag_records is not None]
    return replace(
        worst,
        positions=positions,
        lag_records=sum(lags) if lags else None,
        counters=_summed([each.counters for each in tasks]),
        breaker=min((each.breaker for each in tasks), key=get_args(Breaker).index),
    )


def _summed(counters: Sequence[EgressCounters]) -> EgressCounters:
    total = EgressCounters()
    for each in counters:
        for name in (one.name for one in fields(EgressCounters) if one.name != "dead_letters"):
            setattr(total, name, getattr(total, name) + getattr(each, name))
        # A copy: the task's own thread may add a reason meanwhile.
        total.dead_letters.update(dict(each.dead_letters))
    return total
