"""Changelog messages: every type of state survives its bytes, in one message or many; damage is found."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from headrace.engine import changelog
from headrace.engine.changelog import HEADER, ChangelogReader, ChangelogUnreadable
from headrace.engine.operator import StateChange
from tests.engine.state.test_dictionary import VALUES

STAMP = datetime.datetime(2013, 6, 1, tzinfo=datetime.UTC)


def change_of(rows: int = 3) -> StateChange:
    """A change with columns of every kind that accumulators write."""
    frame = pl.DataFrame(
        {
            "k": [f"key-{n}" if n % 3 else None for n in range(rows)],
            "sum": [[n, -n, 2**62, 0] for n in range(rows)],
            "value": [math.nan if n == 1 else n / 7 for n in range(rows)],
            "list": [[f"v{m}" for m in range(n % 5)] for n in range(rows)],
            "__deleted": [n % 2 == 0 for n in range(rows)],
        },
        {
            "k": pl.String,
            "sum": pl.Array(pl.Int64, 4),
            "value": pl.Float64,
            "list": pl.List(pl.String),
            "__deleted": pl.Boolean,
        },
    )
    return StateChange(3, frame, {"closed_until_ms": -(2**62)})


def read(messages: list[bytes]) -> changelog.ChangelogMessage:
    """The one change that these messages are."""
    reader = ChangelogReader(3)
    *before, last = [reader.read(message) for message in messages]
    assert before == [None] * len(before), "a change is complete with its last message"
    assert last is not None
    return last


@pytest.mark.parametrize("bytes_max", [changelog.MESSAGE_BYTES_MAX, 300, 25])
def test_a_change_survives_its_messages(bytes_max: int) -> None:
    """In one message or in hundreds, none above the limit."""
    change = change_of(50)
    messages = changelog.encode(change, "f", bytes_max=bytes_max)
    assert (len(messages) == 1) == (bytes_max > 10_000)
    assert max(map(len, messages)) <= bytes_max
    back = read(messages)
    assert_frame_equal(back.change.frame, change.frame)
    assert (back.change.partition, back.change.meta) == (3, change.meta)
    assert back.fingerprint == "f"


@pytest.mark.parametrize("kind", list(VALUES))
def test_every_type_of_a_key_survives(kind: str) -> None:
    """Values and nulls of all types that columns can have."""
    dtype, values = VALUES[kind]
    frame = pl.DataFrame({"k": pl.Series([*values, None], dtype=dtype)})
    back = read(changelog.encode(StateChange(3, frame, {}), "f")).change.frame
    assert_frame_equal(back.with_columns(pl.col("k").cast(dtype)), frame)


def test_a_change_without_rows_keeps_its_numbers() -> None:
    """A partition that closed windows and holds nothing any more still tells how far it closed them."""
    change = StateChange(3, pl.DataFrame(schema={"k": pl.String, "n": pl.Int64}), {"closed_until_ms": 9})
    back = read(changelog.encode(change, "f"))
    assert back.change.meta == {"closed_until_ms": 9}
    assert back.change.frame.schema == change.frame.schema


@settings(deadline=None, max_examples=150)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_found(at: int, bit: int, cut: bool) -> None:
    """Any bit that flips, any end that is missing."""
    (message,) = changelog.encode(change_of(), "f")
    at %= len(message)
    end = b"" if cut else bytes([message[at] ^ (1 << bit)]) + message[at + 1 :]
    with pytest.raises(ChangelogUnreadable):
        ChangelogReader(3).read(message[:at] + end)


def test_bytes_of_somebody_else_are_told() -> None:
    """Empty values, other formats, and a frame of ours around something that is no Arrow stream."""
    reader = ChangelogReader(0)
    for value in (b"", b"{}", b"\0\0\0\0\1 an Avro record, say"):
        with pytest.raises(ChangelogUnreadable):
            reader.read(value)
    (message,) = changelog.encode(change_of(), "f")
    for body in (b"", b"no Arrow", message[HEADER.size : -20]):
        with pytest.raises(ChangelogUnreadable, match="holds no state change"):
            reader.read(changelog._framed(memoryview(body), 0, 1, 1))


def test_a_missing_or_repeated_piece_is_told() -> None:
    """Pieces follow one another; a gap must not become a shorter state."""
    messages = changelog.encode(change_of(50), "f", bytes_max=500)
    reader = ChangelogReader(3)
    reader.read(messages[0])
    with pytest.raises(ChangelogUnreadable, match="piece 2 of"):
        reader.read(messages[2])
    with pytest.raises(ChangelogUnreadable, match="piece 1 of"):
        ChangelogReader(3).read(messages[1])


def test_a_change_that_was_never_finished_is_left_out() -> None:
    """A writer without transactions died between two pieces: what begins next counts."""
    pieces = changelog.encode(change_of(50), "f", bytes_max=500)
    reader = ChangelogReader(3)
    assert reader.read(pieces[0]) is None
    (whole,) = changelog.encode(change_of(2), "f")
    found = reader.read(whole)
    assert found is not None
    assert found.change.frame.height == 2


def test_decimals_keep_every_digit() -> None:
    """Thirty-eight of them."""
    value = Decimal("-123456789012345678901234567890123456.78")
    frame = pl.DataFrame({"d": pl.Series([value], dtype=pl.Decimal(38, 2))})
    assert read(changelog.encode(StateChange(3, frame, {}), "f")).change.frame["d"].to_list() == [value]
