"""The data of the engine benchmark: orders, the same in every run.

Owns the contract, the generator and the expected answers.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract

TOPIC = "bench.orders"
BEGIN_MS = 1_700_000_000_000
RECORDS_PER_SECOND_OF_EVENT_TIME = 5_000
LATE_MS_MAX = 5_000
WINDOW_MS = 60_000
STATUSES = ["NEW", "PAID", "SHIPPED", "CANCELLED"]

CONTRACT = Contract(
    topic=TOPIC,
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Order",
            "namespace": "bench",
            "fields": [
                {"name": "order_id", "type": "string"},
                {"name": "customer_id", "type": "string"},
                {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "amount", "type": "double"},
                {"name": "quantity", "type": "int"},
                {"name": "status", "type": {"type": "enum", "name": "Status", "symbols": STATUSES}},
                {"name": "note", "type": ["null", "string"]},
            ],
        }
    ),
    key=("customer_id",),
    time="placed_at",
)


def make_orders(records: int, customers: int) -> pl.DataFrame:
    """Orders in arrival order; one in a hundred is up to five seconds late. Amounts are whole, so sums are exact."""
    generator = np.random.default_rng(7)
    arrival = BEGIN_MS + np.arange(records) * 1000 // RECORDS_PER_SECOND_OF_EVENT_TIME
    late = np.where(generator.random(records) < 0.01, generator.integers(0, LATE_MS_MAX, records), 0)
    customer = generator.integers(0, customers, records)
    has_note = pl.Series(generator.random(records) < 0.3)
    return pl.DataFrame(
        {
            "order_id": [f"order-{n:010d}" for n in range(records)],
            "customer_id": pl.Series(customer).cast(pl.String),
            "placed_at": pl.Series(arrival - late).cast(pl.Datetime("ms", "UTC")),
            "amount": generator.integers(1, 1000, records).astype(np.float64),
            "quantity": generator.integers(1, 9, records).astype(np.int32),
            "status": pl.Series([STATUSES[n] for n in generator.integers(0, 4, records)], dtype=pl.Enum(STATUSES)),
            "note": pl.select(pl.when(has_note).then(pl.lit("leave at the door"))).to_series(),
        }
    ).with_columns(pl.format("customer-{}", pl.col("customer_id").str.zfill(7)).alias("customer_id"))


def paid_rows(orders: pl.DataFrame) -> int:
    """How many rows the filter lets through."""
    return orders.filter(pl.col("status") == "PAID").height


def window_sums(orders: pl.DataFrame) -> tuple[int, float]:
    """Windows by customer, and the sum over all of them."""
    windows = orders.select("customer_id", pl.col("placed_at").dt.truncate("60s"), "amount")
    return windows.select("customer_id", "placed_at").n_unique(), float(orders["amount"].sum())
