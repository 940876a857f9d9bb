"""Items put up for auction: contract and generator.

- Ids are dense and rise with event time, from `FIRST_ID` on.
- No auction lasts longer than `LASTS_MS_MAX`, so that joins with its bids may forget it.
- Three auctions in four are of a hot seller.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from bench.nexmark.clock import EventClock
from bench.nexmark.ids import hot_or, person_ids
from bench.nexmark.persons import FIRST_ID as FIRST_PERSON_ID
from bench.nexmark.text import letters, padding, prices, words
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract

TOPIC = "nexmark.auctions"
FIRST_ID = 1000
SIZE_BYTES = 500
"""Average size of an event."""
FIRST_CATEGORY = 10
CATEGORIES = 5
HOT_SELLER_RATIO = 4
"""One auction in so many is not of a hot seller."""
IN_FLIGHT = 100
"""Auctions that are open at a time, on average."""
LASTS_MS_MAX = 60_000

CONTRACT = Contract(
    topic=TOPIC,
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Auction",
            "namespace": "nexmark",
            "fields": [
                {"name": "id", "type": "long"},
                {"name": "item_name", "type": "string"},
                {"name": "description", "type": "string"},
                {"name": "initial_bid", "type": "long"},
                {"name": "reserve", "type": "long"},
                {"name": "date_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "expires", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "seller", "type": "long"},
                {"name": "category", "type": "long"},
                {"name": "extra", "type": "string"},
            ],
        }
    ),
    key=("id",),
    time="date_time",
)


def make_auctions(
    base_ids: np.ndarray, newest_person: np.ndarray, time_ms: np.ndarray, clock: EventClock, random: np.random.Generator
) -> pl.DataFrame:
    """One auction for each id, counted from 0; `newest_person` is the last person registered by then."""
    count = len(base_ids)
    sellers = hot_or(newest_person, 0, HOT_SELLER_RATIO, lambda: person_ids(newest_person, random), random)
    initial_bid = prices(count, random)
    frame = pl.DataFrame(
        {
            "id": base_ids + FIRST_ID,
            "item_name": words(count, 20, random, odd=" "),
            "description": words(count, 100, random, odd=" "),
            "initial_bid": initial_bid,
            "reserve": initial_bid + prices(count, random),
            "date_time": pl.Series(time_ms).cast(pl.Datetime("ms", "UTC")),
            "expires": pl.Series(time_ms + _lasts_ms(count, clock, random)).cast(pl.Datetime("ms", "UTC")),
            "seller": sellers + FIRST_PERSON_ID,
            "category": FIRST_CATEGORY + random.integers(0, CATEGORIES, count),
        }
    )
    used = frame.select(48 + pl.sum_horizontal(pl.col(pl.String).str.len_bytes())).to_series().to_numpy()
    return frame.with_columns(letters(padding(used, SIZE_BYTES, random), random).alias("extra"))


def _lasts_ms(count: int, clock: EventClock, random: np.random.Generator) -> np.ndarray:
    """Twice the time in which `IN_FLIGHT` auctions begin, at most."""
    most_ms = min(2 * clock.takes_ms(IN_FLIGHT * 50 // 3), LASTS_MS_MAX - 1)
    return 1 + random.integers(0, max(most_ms, 1), count)
