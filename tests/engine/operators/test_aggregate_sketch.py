"""quantile(): the sketch keeps its promise, merges without loss and stays small; the exact one is exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from headrace.engine.aggregates.accumulator import Rows
from headrace.engine.aggregates.quantiles import ExactQuantile, SketchQuantile
from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Make = Callable[[Slab, float], ExactQuantile | SketchQuantile]

GENERATOR = np.random.default_rng(5)
COUNT = 4_000
SPREADS: dict[str, Floats] = {
    "uniform": GENERATOR.uniform(0, 1_000, COUNT),
    "log-normal": GENERATOR.lognormal(3, 4, COUNT),
    "both signs": GENERATOR.normal(0, 50, COUNT),
    "negative": -GENERATOR.exponential(1e-9, COUNT),
    "all equal": np.full(COUNT, 0.1),
    "nearly all magnitudes": np.ldexp(GENERATOR.uniform(0.5, 1, COUNT), GENERATOR.integers(-1_000, 1_024, COUNT)),
    "zeros and ends": np.resize([0.0, -0.0, 1.7e308, -1.7e308, 2.3e-308, math.inf, -math.inf], COUNT),
}
QS = (0.0, 0.01, 0.5, 0.95, 0.999, 1.0)


def sketch(accuracy: float) -> Make:
    """Makes sketches of this accuracy."""
    return lambda slab, q: SketchQuantile(slab, "p", q, accuracy)


def exact(slab: Slab, q: float) -> ExactQuantile:
    return ExactQuantile(slab, "p", q)


def filled(make: Make, values: Floats, q: float, pieces: int) -> tuple[ExactQuantile | SketchQuantile, Ints]:
    """An accumulator with the values spread over this many slots."""
    slab = Slab()
    accumulator = make(slab, q)
    slots = slab.allocate(pieces)
    accumulator.add(Rows(np.resize(slots, len(values)), np.zeros(len(values), np.int64), pl.Series(values)))
    return accumulator, slots


def result_of(make: Make, values: Floats, q: float) -> float:
    accumulator, slots = filled(make, values, q, 1)
    return float(accumulator.result(slots)[0])


@pytest.mark.parametrize("accuracy", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("spread", list(SPREADS))
def test_a_sketch_is_as_near_as_it_says(spread: str, accuracy: float) -> None:
    """Its result is within the relative accuracy of the value at that rank, for any spread of values."""
    values = SPREADS[spread]
    ordered = np.sort(values)
    for q in QS:
        wanted = float(ordered[math.floor((len(values) - 1) * q)])
        made = result_of(sketch(accuracy), values, q)
        assert made == wanted or math.isclose(made, wanted, rel_tol=accuracy * (1 + 1e-9)), q


@pytest.mark.parametrize("make", [sketch(0.01), exact], ids=["sketch", "exact"])
@pytest.mark.parametrize("spread", list(SPREADS))
def test_merged_parts_are_the_whole(spread: str, make: Make) -> None:
    """Fifty parts merged in any order give the bits of one pass, so partial results lose nothing."""
    values = SPREADS[spread]
    for q in (0.05, 0.5, 0.99):
        accumulator, slots = filled(make, values, q, 50)
        order = np.random.default_rng(1).permutation(slots[1:])
        accumulator.merge(np.repeat(slots[0], len(order)), order)
        merged = float(accumulator.result(slots[:1])[0])
        assert merged.hex() == result_of(make, values, q).hex() or math.isnan(merged)


def test_exact_quantiles_are_those_of_polars() -> None:
    """Linear interpolation, bit for bit."""
    for spread in ("uniform", "log-normal", "both signs", "negative"):
        values = SPREADS[spread]
        for q in QS:
            assert result_of(exact, values, q) == pl.Series(values).quantile(q, "linear")


def test_interpolation_stays_between_its_ends() -> None:
    """Between the largest doubles of both signs, and at infinities, where differences overflow."""
    most = np.finfo(np.float64).max
    assert result_of(exact, np.array([-most, most]), 0.5) == 0.0
    assert result_of(exact, np.array([-math.inf, 1.0]), 0.5) == -math.inf
    assert result_of(exact, np.array([1.0, math.inf]), 0.5) == math.inf
    assert result_of(exact, np.array([math.inf, math.inf]), 0.5) == math.inf


@pytest.mark.parametrize("make", [sketch(0.01), exact], ids=["sketch", "exact"])
def test_nan_is_larger_than_every_number(make: Make) -> None:
    """As in SQL; it shows only at the top."""
    values = np.array([1.0, math.nan, 2.0, math.inf, math.nan])
    assert result_of(make, values, 0.25) == pytest.approx(2.0, rel=0.01)
    assert result_of(make, values, 0.5) == math.inf
    assert math.isnan(result_of(make, values, 1.0))


def test_a_sketch_grows_with_the_spread_and_not_with_the_rows() -> None:
    """A hundred times the rows of the same spread: the same buckets. The exact one keeps every value."""
    values = np.random.default_rng(2).uniform(1, 1_000, 200_000)
    few, many = filled(sketch(0.01), values[:2_000], 0.5, 1), filled(sketch(0.01), values, 0.5, 1)
    (small,), (large,) = (
        [len(row) for row in accumulator.state(slots, whole=True)[0].to_list()] for accumulator, slots in (few, many)
    )
    assert small <= large <= math.log(1_000) / math.log(1.01 / 0.99) + 2
    accumulator, slots = filled(exact, values, 0.5, 1)
    assert accumulator.state(slots, whole=True)[1].list.len().to_list() == [200_000]
