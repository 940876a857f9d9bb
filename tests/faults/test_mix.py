"""All faults mixed at random for half a minute: what `python -m tests.faults` does for as long as one likes."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.runner import order, run

SEED = 3
MINUTES = 0.6


def names(seed: int, count: int) -> list[str]:
    return [fault.name for fault, _ in islice(order(seed), count)]


def test_the_order_is_a_fact_of_the_seed() -> None:
    """The same seed gives the same faults with the same draws, another seed others, and each round has every fault."""
    count = 3 * len(FAULTS)
    assert names(1, count) == names(1, count)
    assert names(1, count) != names(2, count)
    assert sorted(names(1, len(FAULTS))) == sorted(fault.name for fault in FAULTS)
    draws = [[generator.random() for _, generator in islice(order(1), count)] for _ in range(2)]
    assert draws[0] == draws[1]


def test_names_are_unique() -> None:
    """Each fault can be asked for."""
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.xdist_group("faults-mix")
@pytest.mark.timeout(600)
def test_faults_at_random() -> None:
    """One after the other, the next often before the last is healed; then nothing differs and no process is left."""
    report = run(SEED, MINUTES)
    assert report.difference is None, report
    assert report.faults
    assert report.orders
