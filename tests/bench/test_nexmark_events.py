"""The events of the Nexmark benchmark are what the benchmark says they are."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest
from bench.nexmark import auctions, bids, persons
from bench.nexmark.clock import EventClock
from bench.nexmark.events import CONTRACTS, Events, make_events, make_tick
from polars.testing import assert_frame_equal

from headrace.contracts.polars_types import to_polars

EVENTS = 50_000
SHARE_ERROR = 0.02
"""So far a share may be from the expected one: four sigmas of the rarest."""


@pytest.fixture(scope="module")
def events() -> Events:
    """One set for all tests here."""
    return make_events(EVENTS)


def share(predicate: pl.Series) -> float:
    found = predicate.mean()
    assert isinstance(found, float)
    return found


def test_kinds_come_in_their_proportions(events: Events) -> None:
    """1 person, 3 auctions and 46 bids in every 50 events, and in every cut of a set."""
    assert [frame.height for frame in events.by_topic().values()] == [1_000, 3_000, 46_000]
    odd = make_events(53)
    assert [frame.height for frame in odd.by_topic().values()] == [2, 5, 46]


def test_columns_are_those_of_the_contracts(events: Events) -> None:
    """Names, order and types; no nulls."""
    for topic, frame in events.by_topic().items():
        assert dict(frame.schema) == to_polars(CONTRACTS[topic].schema)
        assert sum(frame.null_count().row(0)) == 0


def test_event_time_never_goes_back(events: Events) -> None:
    """Rows of each kind are in event-time order, at the rate asked for."""
    for frame in events.by_topic().values():
        assert frame["date_time"].is_sorted()
    slow = make_events(1_000, clock=EventClock(begin_ms=5_000, events_per_second=100))
    took = slow.bids["date_time"].dt.epoch("ms")
    assert (took[0], took[-1]) == (5_000 + 40, 5_000 + 9_990)


def test_the_same_seed_gives_the_same_events(events: Events) -> None:
    """A second set is equal; one of another seed is not."""
    assert_frame_equal(make_events(EVENTS).bids, events.bids)
    assert not make_events(EVENTS, seed=8).bids.equals(events.bids)


def test_ids_are_dense(events: Events) -> None:
    """Persons and auctions are numbered from 1000 on, in the order they come."""
    assert events.persons["id"].to_list() == list(range(1_000, 2_000))
    assert events.auctions["id"].to_list() == list(range(1_000, 4_000))


def test_hot_keys_get_their_share(events: Events) -> None:
    """Half of the bids are on a hot auction, three quarters by a hot bidder; as many auctions are by a hot seller.

    Recent ids are chosen at random among a thousand and ten, or a hundred and eleven, so a few more fall on hot ones.
    """
    on, by, sellers = events.bids["auction"], events.bids["bidder"], events.auctions["seller"]
    assert share(on % 100 == 0) == pytest.approx(0.5 + 0.5 / 100, abs=SHARE_ERROR)
    assert share(by % 100 == 1) == pytest.approx(0.75 + 0.25 / 100, abs=SHARE_ERROR)
    assert share(sellers % 100 == 0) == pytest.approx(0.75 + 0.25 / 100, abs=SHARE_ERROR)
    # One auction at a time is hot, not all multiples.
    assert on.filter(on % 100 == 0).n_unique() > 25


def test_channels_and_their_addresses(events: Events) -> None:
    """Half of the bids come through four channels whose addresses have no id; nine in ten others have one."""
    hot = events.bids["channel"].is_in(bids.HOT_CHANNELS)
    assert share(hot) == pytest.approx(0.5, abs=SHARE_ERROR)
    has_id = events.bids["url"].str.contains("&channel_id=")
    assert not has_id.filter(hot).any()
    assert share(has_id.filter(~hot)) == pytest.approx(0.9, abs=SHARE_ERROR)
    # A channel is always the same address.
    assert events.bids.select("channel", "url").n_unique() == events.bids["channel"].n_unique()


def test_prices_spread_over_six_orders_of_magnitude(events: Events) -> None:
    """As many bids between 1 and 10 as between 100,000 and a million."""
    orders = np.floor(np.log10(events.bids["price"].to_numpy() / 100)).clip(0, 5)
    shares = np.bincount(orders.astype(int), minlength=6) / len(orders)
    assert shares == pytest.approx(np.full(6, 1 / 6), abs=SHARE_ERROR)
    assert events.bids["price"].min() >= 100  # type: ignore[operator]
    assert events.bids["price"].max() <= 100_000_000  # type: ignore[operator]


def test_auctions_last_as_long_as_said(events: Events) -> None:
    """They expire after they begin, on average when a hundred others have begun, and never after the bound."""
    lasts = (events.auctions["expires"] - events.auctions["date_time"]).dt.total_milliseconds()
    # 1,666 events at ten a millisecond.
    assert lasts.mean() == pytest.approx(166.6, rel=0.05)
    slow = make_events(5_000, clock=EventClock(events_per_second=100)).auctions
    lasts = (slow["expires"] - slow["date_time"]).dt.total_milliseconds()
    assert lasts.min() >= 1  # type: ignore[operator]
    assert 10_000 < lasts.max() <= auctions.LASTS_MS_MAX  # type: ignore[operator]


def test_bids_come_for_auctions_of_about_then(events: Events) -> None:
    """A bid's auction begins less than `LASTS_MS_MAX` before or after it, at the slowest rate too."""
    slow = make_events(20_000, clock=EventClock(events_per_second=100))
    pairs = slow.bids.join(slow.auctions, left_on="auction", right_on="id")
    after = (pairs["date_time"] - pairs["date_time_right"]).dt.total_milliseconds()
    assert pairs.height > slow.bids.height * 0.99
    assert after.min() > -auctions.LASTS_MS_MAX  # type: ignore[operator]
    assert 10_000 < after.max() < auctions.LASTS_MS_MAX  # type: ignore[operator]
    assert after.min() < 0, "some come before their auction"  # type: ignore[operator]


def test_a_clock_too_slow_is_refused() -> None:
    """Bids would come so long after their auction that the joins had forgotten it."""
    with pytest.raises(ValueError, match="at least 100"):
        EventClock(events_per_second=99)


def test_sizes_are_about_those_of_the_original(events: Events) -> None:
    """200, 500 and 100 bytes on average; of bids the four numbers and the padding count."""
    people, items = events.persons, events.auctions
    for frame, extra, wanted in ((people, 8, persons.SIZE_BYTES), (items, 48, auctions.SIZE_BYTES)):
        texts = frame.select(pl.sum_horizontal(pl.col(pl.String).str.len_bytes())).to_series()
        assert texts.mean() + extra == pytest.approx(wanted, rel=0.03)  # type: ignore[operator]
    assert events.bids["extra"].str.len_bytes().mean() + 32 == pytest.approx(bids.SIZE_BYTES, rel=0.03)  # type: ignore[operator]


def test_a_tick_is_later_than_everything_and_touches_nothing(events: Events) -> None:
    """Its events have the contracts' types, a time long after all others, and ids of their own."""
    tick = make_tick(events)
    last = max(frame["date_time"][-1] for frame in events.by_topic().values())
    for topic, frame in tick.by_topic().items():
        assert dict(frame.schema) == to_polars(CONTRACTS[topic].schema)
        assert (frame["date_time"] > last).all()
    ids = [tick.persons["id"], tick.auctions["id"], tick.auctions["seller"], tick.bids["auction"], tick.bids["bidder"]]
    assert all((each < 0).all() for each in ids)
    assert not set(tick.auctions["seller"]) & set(tick.persons["id"])
    assert not set(tick.bids["auction"]) & set(tick.auctions["id"])


def test_a_million_events_take_seconds() -> None:
    """Columns are made whole, so that making events is never what a benchmark measures."""
    began = time.process_time()
    make_events(1_000_000)
    assert time.process_time() - began < 10
