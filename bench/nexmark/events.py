"""The events of an auction house: 1 person, 3 auctions and 46 bids in every 50.

Owns the order of events, and the ticks that end them.

- The same arguments give the same events, on any machine.
- Rows of each frame are in event-time order, which is the order of event numbers.
- A tick is an event of each kind long after all others, in every partition: it closes their windows, points at nobody
  and nobody points at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from bench.nexmark import auctions, bids, persons
from bench.nexmark.clock import EventClock
from headrace.contracts.contract import Contract

PER_ROUND = 50
PERSONS_PER_ROUND = 1
AUCTIONS_PER_ROUND = 3
TICK_AFTER_MS = 10 * 60_000
TICKS = 64
"""Rows of a tick, each of a key of its own: enough that every partition gets one."""

CONTRACTS: Mapping[str, Contract] = {each.CONTRACT.topic: each.CONTRACT for each in (persons, auctions, bids)}


@dataclass(frozen=True)
class Events:
    """All events, by kind."""

    persons: pl.DataFrame
    auctions: pl.DataFrame
    bids: pl.DataFrame

    def by_topic(self) -> dict[str, pl.DataFrame]:
        """The events of each topic."""
        return {persons.TOPIC: self.persons, auctions.TOPIC: self.auctions, bids.TOPIC: self.bids}


def make_events(count: int, *, seed: int = 7, clock: EventClock | None = None) -> Events:
    """The first `count` events."""
    clock = clock or EventClock()
    random = np.random.default_rng(seed)
    numbers = np.arange(count, dtype=np.int64)
    rounds, offsets = np.divmod(numbers, PER_ROUND)
    times_ms = clock.times_ms(numbers)
    # The last auction of before, until the first of this round.
    begun = np.clip(offsets - PERSONS_PER_ROUND + 1, 0, AUCTIONS_PER_ROUND)
    newest_auction = np.maximum(rounds * AUCTIONS_PER_ROUND + begun - 1, 0)
    of_person = offsets < PERSONS_PER_ROUND
    of_bid = offsets >= PERSONS_PER_ROUND + AUCTIONS_PER_ROUND
    of_auction = ~of_person & ~of_bid
    return Events(
        persons.make_persons(rounds[of_person], times_ms[of_person], random),
        auctions.make_auctions(newest_auction[of_auction], rounds[of_auction], times_ms[of_auction], clock, random),
        bids.make_bids(newest_auction[of_bid], rounds[of_bid], times_ms[of_bid], random),
    )


def make_tick(events: Events) -> Events:
    """The events that come long after these."""
    times = pl.concat([frame["date_time"] for frame in events.by_topic().values()])
    time = pl.lit(times.max()).cast(pl.Datetime("ms", "UTC")) + pl.duration(milliseconds=TICK_AFTER_MS)
    ids = pl.DataFrame({"n": -1 - np.arange(TICKS)})

    def like(frame: pl.DataFrame, **numbers: pl.Expr) -> pl.DataFrame:
        values = {name: pl.lit("") if dtype == pl.String else pl.lit(0) for name, dtype in frame.schema.items()}
        whole = values | {"date_time": time, "expires": time} | numbers
        return ids.select(whole[name].cast(dtype).alias(name) for name, dtype in frame.schema.items())

    n = pl.col("n")
    return Events(
        like(events.persons, id=n),
        like(events.auctions, id=n, seller=n - TICKS),
        like(events.bids, auction=n - TICKS, bidder=n),
    )
