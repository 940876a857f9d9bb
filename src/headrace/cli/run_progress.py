"""What `headrace run` and `headrace dev` say while they work.

Owns one line per component, said when its state or counters have changed, at most every `INTERVAL_S`. While it restores
it is said again at each tenth only: a restore may be long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.output import note
from headrace.cli.restore_text import percent, restore_share, restore_text

if TYPE_CHECKING:
    from headrace.workspace.status import ComponentStatus

INTERVAL_S = 2.0

Told = dict[tuple[str, str], tuple[object, ...]]
"""By kind and name, what was said of a component last."""


@dataclass(slots=True)
class _Totals:
    """One component over all its instances."""

    states: set[str]
    records_in: int = 0
    records_out: int = 0
    dead_letters: int = 0
    rate: float = 0.0
    statuses: list[ComponentStatus] = field(default_factory=list)

    @property
    def seen(self) -> tuple[object, ...]:
        """What is worth a new line when it changes."""
        share = restore_share(self.statuses)
        counts = (self.records_in, self.records_out, self.dead_letters)
        return (frozenset(self.states), counts if share is None else percent(*share) // 10)

    def line(self, kind: str, name: str) -> str:
        state = "/".join(sorted(self.states))
        if text := restore_text(self.statuses):
            return f"{kind} {name} {state}: {text}"
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
    told: Told = {}
    last = False
    while not last:
        last = done.wait(INTERVAL_S)
        tell_news(root, environment, started_ms, told)


def tell_news(root: Path, environment: str, started_ms: int, told: Told) -> None:
    """A line for each component that is not as it was `told`."""
    for place, totals in sorted(_totals(root, environment, started_ms).items(), key=itemgetter(0)):
        if told.get(place) != totals.seen:
            told[place] = totals.seen
            note(totals.line(*place))


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
        totals.statuses.append(each)
    return found
