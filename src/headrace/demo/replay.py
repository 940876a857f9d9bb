"""The replay: a year of flights, with the fleet team at work in between.

Owns the order of things. Before a change of the register is entered, every flight that left earlier is published;
after it, publishing waits until the change is in its topic. So the answer does not depend on how fast anything runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import polars as pl

from headrace.demo.airports import Airports
from headrace.demo.source_files import Change, changes, read_airlines, read_planes
from headrace.errors import HeadraceError
from headrace.log.port import Log, TopicPartition
from headrace.workspace.environment import Environment

CHUNK_ROWS = 10_000
CAPTURE_TIMEOUT_S = 60.0
POLL_S = 0.05


class ReplayStuck(HeadraceError):
    """Something that the replay waits for does not happen."""

    code = "demo.stuck"


class Fleet(Protocol):
    """The fleet team and its database."""

    def enter(self, change: Change) -> None:
        """One transaction of the fleet team."""


def records_in(log: Log, topic: str) -> int:
    """Offsets handed out in a topic so far."""
    admin = log.admin()
    try:
        partitions = admin.topics()[topic].partitions
        return sum(admin.end_offsets([TopicPartition(topic, number) for number in range(partitions)]).values())
    finally:
        admin.close()


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float, alive: Callable[[], None]) -> None:
    """Poll until true; `alive` raises when what it waits for can no longer happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        alive()
        if time.monotonic() > deadline:
            raise ReplayStuck(f"{what} within {timeout_s:.0f} s did not happen", cure="see the workers' log")
        time.sleep(POLL_S)


def replay(
    environment: Environment,
    fleet: Fleet,
    airports: Airports,
    flights: pl.DataFrame,
    *,
    alive: Callable[[], None],
    progress: Callable[[int], None],
    chunk_rows: int = CHUNK_ROWS,
) -> None:
    """Publish all flights, entering each change of the register at its time."""
    log = environment.log
    captured = read_planes().height
    wait_for(
        lambda: records_in(log, "planes") >= captured,
        "the first copy of planes",
        timeout_s=CAPTURE_TIMEOUT_S,
        alive=alive,
    )
    airlines = read_airlines().height
    wait_for(
        lambda: records_in(log, "airlines") >= airlines,
        "the first copy of airlines",
        timeout_s=CAPTURE_TIMEOUT_S,
        alive=alive,
    )
    left_at = flights["left_at"]
    published = 0
    for change in changes(read_planes()):
        until = int(left_at.search_sorted(change.entered_at, side="left"))
        _publish(airports, flights[published:until], progress, chunk_rows)
        published = max(published, until)
        before = records_in(log, "planes")
        fleet.enter(change)
        wanted = before + len(change.makers)
        wait_for(
            lambda wanted=wanted: records_in(log, "planes") >= wanted,  # type: ignore[misc]
            "the capture of a change",
            timeout_s=CAPTURE_TIMEOUT_S,
            alive=alive,
        )
    _publish(airports, flights[published:], progress, chunk_rows)


def _publish(airports: Airports, flights: pl.DataFrame, progress: Callable[[int], None], chunk_rows: int) -> None:
    for start in range(0, flights.height, chunk_rows):
        piece = flights[start : start + chunk_rows].drop("left_at")
        airports.publish(piece)
        progress(piece.height)
