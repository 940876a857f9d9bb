"""The data of the peers' benchmark: orders, payments and customers, the same in every run but for the day.

Owns the tables and their bytes. Bytes are made here with NumPy, so that no system's encoder has a part in them.

- Orders are about a hundred bytes with their key; one in a hundred is up to five seconds late; amounts are quarters, so
  that sums are exact in any order.
- The first n orders of a longer table are the table of n orders.
- Times begin at today's midnight (UTC): brokers and stores throw nothing away for its age.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

EVENTS_PER_SECOND = 5_000
"""Of event time."""
LATE_SHARE = 0.01
LATE_MS_MAX = 5_000
WINDOW_MS = 60_000
GRACE_MS = 10_000
NEAR_MS = 10_000
"""A payment belongs to the orders of its customer of the ten seconds before it."""
CUSTOMERS = 100_000
"""In the table that orders are joined with."""
DAY_MS = 86_400_000
STATUSES = ("NEW", "PAID", "SHIPPED", "CANCELLED")
PAID = STATUSES.index("PAID")
COUNTRIES = ("DE", "FR", "US", "JP")
NOTES = (
    None,
    "leave at the front door please",
    "gift wrap, no invoice inside the box",
    "call before delivery, second floor, ring twice",
    "fragile",
)
NOTE_SHARES = (0.4, 0.15, 0.15, 0.15, 0.15)
STATUS_SHARES = (0.3, 0.4, 0.2, 0.1)

Bytes2D = npt.NDArray[np.uint8]
Messages = tuple[list[bytes], list[bytes], list[int]]
"""Keys, values and times in milliseconds."""

HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
UUID_PLACES = np.array([place for place in range(36) if place not in (8, 13, 18, 23)])


def begin_ms() -> int:
    """Today's midnight."""
    return int(time.time() * 1000) // DAY_MS * DAY_MS


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders as columns; `frame` has what the answers need."""

    frame: pl.DataFrame
    """customer (a number), ts (milliseconds), amount, qty, status and note (numbers)."""
    ids: Bytes2D
    """Sixteen bytes each."""

    def __len__(self) -> int:
        return self.frame.height

    def order_ids(self) -> pl.Series:
        """As text."""
        return _strings(_uuid_text(self.ids))

    def customer_ids(self) -> pl.Series:
        """As text."""
        return _strings(_key_bytes(self.frame["customer"].to_numpy()))


def make_orders(records: int, keys: int, begin: int) -> Orders:
    """Orders in the order of their arrival, by so many customers, evenly."""
    random = [
        np.random.default_rng([7, column]) for column in range(8)
    ]  # A stream each: a table's head stays its head.
    arrival = begin + np.arange(records, dtype=np.int64) * 1000 // EVENTS_PER_SECOND
    late = np.where(random[0].random(records) < LATE_SHARE, random[1].integers(1, LATE_MS_MAX + 1, records), 0)
    frame = pl.DataFrame(
        {
            "customer": random[2].integers(0, keys, records),
            "ts": np.maximum(begin, arrival - late),
            "amount": random[3].integers(1, 2000, records) / 4,
            "qty": random[4].integers(1, 20, records),
            "status": _chosen(random[5], STATUS_SHARES, records),
            "note": _chosen(random[6], NOTE_SHARES, records),
        }
    )
    ids = np.frombuffer(random[7].bytes(16 * records), dtype=np.uint8).reshape(records, 16)
    return Orders(frame, ids)


def make_payments(orders: Orders) -> pl.DataFrame:
    """A payment for four orders in five, up to twelve seconds after the order, in the order of their times."""
    random = np.random.default_rng(11)
    delay = random.integers(0, 12_000, len(orders))
    paid = random.random(len(orders)) < 0.8
    frame = orders.frame.select("customer", "ts").with_columns(
        delay=delay, cents=random.integers(1, 100_000, len(orders))
    )
    return (
        frame.filter(pl.Series(paid))
        .select("customer", (pl.col("ts") + pl.col("delay")).alias("paid_at"), "cents")
        .sort("paid_at", maintain_order=True)
        .with_row_index("payment")
        .with_columns(pl.col("payment").cast(pl.Int64))
    )


def make_customers() -> pl.DataFrame:
    """The table of customers, as it is in the log: each once."""
    number = np.arange(CUSTOMERS, dtype=np.int64)
    return pl.DataFrame(
        {
            "customer": number,
            "name": [f"Customer number {each:06d}" for each in number],
            "country": [COUNTRIES[each % len(COUNTRIES)] for each in number],
            "tier": number % 5,
        }
    )


def customer_id(number: int) -> str:
    """Eleven characters."""
    return f"cust-{number:06d}"


def order_messages(orders: Orders, schema_id: int, chunk_rows: int) -> Iterator[Messages]:
    """Orders as records, in pieces."""
    for start in range(0, len(orders), chunk_rows):
        piece = Orders(orders.frame.slice(start, chunk_rows), orders.ids[start : start + chunk_rows])
        yield _order_piece(piece, schema_id)


def _order_piece(orders: Orders, schema_id: int) -> Messages:
    frame, rows = orders.frame, len(orders)
    keys = _key_bytes(frame["customer"].to_numpy())
    fixed = np.hstack(
        [
            _prefix(schema_id, rows),
            _constant(varint(36), rows),
            _uuid_text(orders.ids),
            _constant(varint(11), rows),
            keys,
            _long_bytes(frame["ts"].to_numpy()),
            frame["amount"].to_numpy().astype("<f8").view(np.uint8).reshape(rows, 8),
            _small(frame["qty"].to_numpy()),
            _small(frame["status"].to_numpy()),
        ]
    )
    notes = [b"\x00" if note is None else b"\x02" + varint(len(note)) + note.encode() for note in NOTES]
    heads = _rows_of(fixed)
    values = [head + notes[note] for head, note in zip(heads, frame["note"].to_list(), strict=True)]
    return _rows_of(keys), values, frame["ts"].to_list()


def payment_messages(payments: pl.DataFrame, schema_id: int, chunk_rows: int) -> Iterator[Messages]:
    """Payments as records, in pieces."""
    prefix = _prefix(schema_id, 1).tobytes()
    for piece in payments.iter_slices(chunk_rows):
        keys = _rows_of(_key_bytes(piece["customer"].to_numpy()))
        values = [
            prefix + _text(payment_id(number)) + _text(key.decode()) + varint(paid_at) + varint(cents)
            for key, (number, _, paid_at, cents) in zip(
                keys, piece.select("payment", "customer", "paid_at", "cents").iter_rows(), strict=True
            )
        ]
        yield keys, values, piece["paid_at"].to_list()


def payment_id(number: int) -> str:
    """Eleven characters."""
    return f"pay-{number:07d}"


def customer_messages(customers: pl.DataFrame, schema_id: int, time_ms: int) -> Messages:
    """The customers as records."""
    prefix = _prefix(schema_id, 1).tobytes()
    keys = [customer_id(number).encode() for number in customers["customer"]]
    values = [
        prefix + _text(customer_id(number)) + _text(name) + _text(country) + varint(tier)
        for number, name, country, tier in customers.iter_rows()
    ]
    return keys, values, [time_ms] * len(keys)


def _strings(text: Bytes2D) -> pl.Series:
    """Rows of equal length."""
    ends = np.arange(len(text) + 1, dtype=np.int64) * text.shape[1]
    content = pa.py_buffer(np.ascontiguousarray(text).tobytes())
    column = pl.from_arrow(pa.LargeStringArray.from_buffers(len(text), pa.py_buffer(ends.tobytes()), content))
    assert isinstance(column, pl.Series)
    return column


def varint(number: int) -> bytes:
    """A whole number as Avro writes it."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text(text: str) -> bytes:
    return varint(len(text)) + text.encode()


def _chosen(random: np.random.Generator, shares: tuple[float, ...], rows: int) -> npt.NDArray[np.int64]:
    """Numbers with these shares."""
    return np.searchsorted(np.cumsum(shares)[:-1], random.random(rows), side="right").astype(np.int64)


def _constant(content: bytes, rows: int) -> Bytes2D:
    return np.broadcast_to(np.frombuffer(content, dtype=np.uint8), (rows, len(content)))


def _prefix(schema_id: int, rows: int) -> Bytes2D:
    """Of the registry's wire format."""
    return _constant(b"\0" + schema_id.to_bytes(4, "big"), rows)


def _key_bytes(numbers: npt.NDArray[np.int64]) -> Bytes2D:
    digits = numbers[:, None] // 10 ** np.arange(5, -1, -1, dtype=np.int64) % 10 + ord("0")
    return np.hstack([_constant(b"cust-", len(numbers)), digits.astype(np.uint8)])


def _uuid_text(ids: Bytes2D) -> Bytes2D:
    text = np.full((len(ids), 36), ord("-"), dtype=np.uint8)
    nibbles = np.stack([ids >> 4, ids & 15], axis=2).reshape(len(ids), 32)
    text[:, UUID_PLACES] = HEX[nibbles]
    return text


def _long_bytes(numbers: npt.NDArray[np.int64]) -> Bytes2D:
    """Times of these years: six bytes each."""
    folded = numbers << 1
    assert ((folded >= 1 << 35) & (folded < 1 << 42)).all()
    groups = folded[:, None] >> (7 * np.arange(6, dtype=np.int64)) & 127
    groups[:, :5] |= 128
    return groups.astype(np.uint8)


def _small(numbers: npt.NDArray[np.int64]) -> Bytes2D:
    """Numbers below 64: one byte each."""
    return (numbers << 1).astype(np.uint8)[:, None]


def _rows_of(matrix: Bytes2D) -> list[bytes]:
    width, content = matrix.shape[1], np.ascontiguousarray(matrix).tobytes()
    return [content[start : start + width] for start in range(0, len(content), width)]
