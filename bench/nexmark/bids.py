"""Bids: contract and generator.

- One bid in two is on a hot auction, three in four are by a hot bidder, one in two comes through a hot channel.
- Bids may be on auctions that are only about to begin, as in the original.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from bench.nexmark.auctions import FIRST_ID as FIRST_AUCTION_ID
from bench.nexmark.ids import auction_ids, hot_or, person_ids
from bench.nexmark.persons import FIRST_ID as FIRST_PERSON_ID
from bench.nexmark.text import letters, padding, prices, words
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract

TOPIC = "nexmark.bids"
SIZE_BYTES = 100
"""Average size of an event."""
HOT_AUCTION_RATIO = 2
"""One bid in so many is not on a hot auction."""
HOT_BIDDER_RATIO = 4
HOT_CHANNELS = ["Google", "Facebook", "Baidu", "Apple"]
COLD_CHANNELS = 10_000
CHANNEL_ID_RATIO = 10
"""One cold channel in so many has no id in its address."""

CONTRACT = Contract(
    topic=TOPIC,
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Bid",
            "namespace": "nexmark",
            "fields": [
                {"name": "auction", "type": "long"},
                {"name": "bidder", "type": "long"},
                {"name": "price", "type": "long"},
                {"name": "channel", "type": "string"},
                {"name": "url", "type": "string"},
                {"name": "date_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "extra", "type": "string"},
            ],
        }
    ),
    key=("auction",),
    time="date_time",
)


def make_bids(
    newest_auction: np.ndarray, newest_person: np.ndarray, time_ms: np.ndarray, random: np.random.Generator
) -> pl.DataFrame:
    """One bid for each time; the newest auction and person are the last ones of then, counted from 0."""
    count = len(time_ms)
    on = hot_or(newest_auction, 0, HOT_AUCTION_RATIO, lambda: auction_ids(newest_auction, random), random)
    by = hot_or(newest_person, 1, HOT_BIDDER_RATIO, lambda: person_ids(newest_person, random), random)
    channels = _channels(random)
    hot = random.integers(0, 2, count) > 0
    chosen = np.where(
        hot,
        random.integers(0, len(HOT_CHANNELS), count),
        random.integers(len(HOT_CHANNELS), channels.height, count),
    )
    frame = pl.DataFrame(
        {
            "auction": on + FIRST_AUCTION_ID,
            "bidder": by + FIRST_PERSON_ID,
            "price": prices(count, random),
            **channels[chosen].to_dict(),
            "date_time": pl.Series(time_ms).cast(pl.Datetime("ms", "UTC")),
        }
    )
    # The original counts the four numbers only.
    return frame.with_columns(letters(padding(np.full(count, 32), SIZE_BYTES, random), random).alias("extra"))


def _channels(random: np.random.Generator) -> pl.DataFrame:
    """The hot channels, then the cold ones, each with its address."""
    count = len(HOT_CHANNELS) + COLD_CHANNELS
    parts = pl.DataFrame({f"part_{n}": words(count, 5, random, odd="_") for n in range(3)})
    base = pl.format("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", *parts.columns)
    has_id = random.integers(0, CHANNEL_ID_RATIO, count) > 0
    has_id[: len(HOT_CHANNELS)] = False
    number = pl.Series("number", np.arange(count) - len(HOT_CHANNELS))
    mixed = pl.Series("mixed", (np.arange(count) * 2_654_435_761) % 2**31)
    return parts.with_columns(number, mixed, pl.Series("has_id", has_id)).select(
        pl.when(pl.col("number") < 0)
        .then(pl.lit(pl.Series(HOT_CHANNELS)).gather(pl.int_range(pl.len()) % len(HOT_CHANNELS)))
        .otherwise(pl.format("channel-{}", "number"))
        .alias("channel"),
        pl.when("has_id").then(pl.format("{}&channel_id={}", base, "mixed")).otherwise(base).alias("url"),
    )
