"""How many records are asked for follows what a batch takes."""

from __future__ import annotations

from headrace.engine.batch_size import BATCH_RECORDS_FIRST, BATCH_RECORDS_MIN, BatchSize
from headrace.engine.settings import BATCH_RECORDS_MAX

INTERVAL_S = 0.1


class Passes:
    """Passes of a pipeline that processes so many records a second."""

    def __init__(self, records_per_second: float, records_max: int = BATCH_RECORDS_MAX) -> None:
        self._now_s, self._rate = 0.0, records_per_second
        self.size = BatchSize(records_max, INTERVAL_S, clock=lambda: self._now_s)

    def work(self, *, backlog: bool = True, passes: int = 20) -> int:
        for _ in range(passes):
            records = self.size.records if backlog else 5
            self.size.begin(records)
            self._now_s += records / self._rate
            self.size.end()
        return self.size.records


def test_a_quick_pipeline_takes_as_many_as_it_may() -> None:
    """A pass that takes less than half an interval is followed by one of twice as many."""
    assert Passes(2_000_000).work() == BATCH_RECORDS_MAX


def test_a_full_batch_stays_within_the_commit_interval() -> None:
    """Between the fewest and the most, what is processed in an interval."""
    rate = 300_000
    assert BATCH_RECORDS_MIN < Passes(rate).work() <= rate * INTERVAL_S


def test_a_slow_pipeline_takes_few_at_once() -> None:
    """Never fewer than a thousand."""
    assert Passes(2_000).work() == BATCH_RECORDS_MIN


def test_one_slow_pass_is_made_good() -> None:
    """A wait for the registry, say."""
    passes = Passes(2_000_000)
    passes.size.begin(10)
    passes._now_s += 5
    passes.size.end()
    assert passes.size.records == BATCH_RECORDS_MIN
    assert passes.work() == BATCH_RECORDS_MAX


def test_small_batches_say_nothing_of_large_ones() -> None:
    """Without a backlog the number stays."""
    assert Passes(2_000_000).work(backlog=False) == BATCH_RECORDS_FIRST


def test_what_the_settings_allow_is_never_passed() -> None:
    """Also below the fewest."""
    assert Passes(2_000_000, records_max=7).work() == 7
    assert Passes(10, records_max=7).work() == 7


def test_a_batch_is_small_beside_what_is_allowed() -> None:
    """A tenth of the most, and at most two thousand."""
    assert BatchSize(BATCH_RECORDS_MAX, INTERVAL_S).is_small(1_999)
    assert not BatchSize(BATCH_RECORDS_MAX, INTERVAL_S).is_small(2_000)
    assert not BatchSize(100, INTERVAL_S).is_small(10)
