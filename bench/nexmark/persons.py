"""People who register: contract and generator.

- Ids are dense and rise with event time, from `FIRST_ID` on.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from bench.nexmark.text import choice, letters, padding, words
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract

TOPIC = "nexmark.persons"
FIRST_ID = 1000
SIZE_BYTES = 200
"""Average size of an event."""

STATES = ["AZ", "CA", "ID", "OR", "WA", "WY"]
CITIES = [
    *("Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland"),
    *("Bend", "Redmond", "Seattle", "Kent", "Cheyenne"),
]
FIRST_NAMES = ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"]
LAST_NAMES = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"]

CONTRACT = Contract(
    topic=TOPIC,
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Person",
            "namespace": "nexmark",
            "fields": [
                {"name": "id", "type": "long"},
                {"name": "name", "type": "string"},
                {"name": "email_address", "type": "string"},
                {"name": "credit_card", "type": "string"},
                {"name": "city", "type": "string"},
                {"name": "state", "type": "string"},
                {"name": "date_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "extra", "type": "string"},
            ],
        }
    ),
    key=("id",),
    time="date_time",
)


def make_persons(base_ids: np.ndarray, time_ms: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    """One person for each id, counted from 0."""
    count = len(base_ids)
    digits = random.integers(0, 10_000, (4, count))
    frame = pl.DataFrame(
        {
            "id": base_ids + FIRST_ID,
            "first": choice(FIRST_NAMES, count, random),
            "last": choice(LAST_NAMES, count, random),
            "user": words(count, 7, random),
            "host": words(count, 5, random),
            **{f"digits_{n}": digits[n] for n in range(4)},
            "city": choice(CITIES, count, random),
            "state": choice(STATES, count, random),
            "date_time": pl.Series(time_ms).cast(pl.Datetime("ms", "UTC")),
        }
    )
    card = pl.concat_str([pl.col(f"digits_{n}").cast(pl.String).str.zfill(4) for n in range(4)], separator=" ")
    whole = frame.select(
        "id",
        pl.format("{} {}", "first", "last").alias("name"),
        pl.format("{}@{}.com", "user", "host").alias("email_address"),
        card.alias("credit_card"),
        "city",
        "state",
        "date_time",
    )
    used = whole.select(8 + pl.sum_horizontal(pl.col(pl.String).str.len_bytes())).to_series().to_numpy()
    return whole.with_columns(letters(padding(used, SIZE_BYTES, random), random).alias("extra"))
