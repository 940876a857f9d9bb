"""What `headrace run` and `headrace dev` say while they work.

Owns one line per component, said when its state or counters have changed, at most every `INTERVAL_S`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.cli.output import note

INTERVAL_S = 2.0


@dataclass(slots=True)
class _Totals:
    """One component over all its instances."""

    states: set[str]
    records_in: int = 0
    records_out: int = 0
    dead_letters: int = 0
    rate: float = 0.0

    def line(self, kind: str, name: str) -> str:
        state = "/".join(sorted(self.states))
        counts = f"{self.records_in:,} in, {self.records_out:,} out, {self.rate:,.0f} records/s"
        dead = f", {self.dead_letters:,} dead letters" if self.dead_letters else ""
        return f"{kind} {name} {state}: {counts}{dead}"


@contextmanager
def telling_progress(root: Path, environment: str) -> Iterator[None]:
    """Say how components are for as long as the context lasts, and once more at its end."""
    done = threading.Event()
    started_ms = time.time_ns() // 1_000_000
    teller = threading.Thread(target=_tell, args=(root, environment, started_ms, done), name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(root: Path, environment: str, started_ms: int, done: threading.Event) -> None:
    told: dict[tuple[str, str], tuple[object, ...]] = {}
    last = False
    while not last:
        last = done.wait(INTERVAL_S)
        for (kind, name), totals in sorted(_totals(root, environment, started_ms).items()):
            seen = (frozenset(totals.states), totals.records_in, totals.records_out, totals.dead_letters)
            if told.get((kind, name)) != seen:
                told[kind, name] = seen
                note(totals.line(kind, name))


def _totals(root: Path, environment: str, started_ms: int) -> dict[tuple[str, str], _Totals]:
    from headrace.workspace.errors import StatusInvalid
    from headrace.workspace.status import read_statuses

    try:
        statuses = read_statuses(root)
    except StatusInvalid as error:
        note(str(error))
        return {}
    found: dict[tuple[str, str], _Totals] = {}
    for each in statuses:
        if each.environment != environment or each.written_at_ms < started_ms:
            continue
        totals = found.setdefault((each.kind.value, each.name), _Totals(set()))
        totals.states.add(each.state.value)
        totals.records_in += each.records_in
        totals.records_out += each.records_out
        totals.dead_letters += each.dead_letters
        totals.rate += each.records_per_second
    return found
