"""Sums, means and variances: exact beyond doubles, equal to the bit in any order, cut and merge."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.aggregates import limbs
from headrace.engine.aggregates.accumulator import Accumulator, Rows
from headrace.engine.aggregates.moments import DoubleMean, Spread
from headrace.engine.aggregates.sums import DoubleSum
from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab
from tests.engine.reference import float_sum

pytestmark = pytest.mark.usefixtures("each_way")

DOUBLES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e6, 1e6),
    st.sampled_from([0.1, 0.2, 0.3, -0.3, 1e16, -1e16, 5e-324, 1.7e308, 2.0**-1022]),
)


GAPS = st.integers(0, 70)
"""Zeros between a head of a double's width and the bits that decide a tie."""


def make(kind: str, slab: Slab) -> Accumulator:
    """One of the accumulators that rest on exact sums."""
    if kind in ("var", "std"):
        return Spread(slab, kind, root=kind == "std")
    return DoubleSum(slab, kind) if kind == "sum" else DoubleMean(slab, kind)


def put(accumulator: Accumulator, slots: Ints, values: list[float]) -> None:
    accumulator.add(Rows(slots, np.zeros(len(values), np.int64), pl.Series(values, dtype=pl.Float64)))


def result_of(kind: str, pieces: list[list[float]], order: list[int] | None = None) -> str:
    """The bits of a result over pieces that were added to slots of their own and merged in this order."""
    slab = Slab()
    accumulator = make(kind, slab)
    slots = slab.allocate(len(pieces) + 1)
    for slot, piece in zip(slots[1:], pieces, strict=True):
        put(accumulator, np.repeat(slot, len(piece)), piece)
    others = slots[1:][order if order is not None else list(range(len(pieces)))]
    for other in others:
        accumulator.merge(slots[:1], np.array([other]))
    value = accumulator.result(slots[:1])[0]
    return "null" if value is None else float(value).hex()


@settings(deadline=None, max_examples=40)
@given(values=st.lists(DOUBLES, min_size=1, max_size=30), data=st.data())
@pytest.mark.parametrize("kind", ["sum", "mean", "var", "std"])
def test_order_cuts_and_merges_leave_the_same_bits(kind: str, values: list[float], data: st.DataObject) -> None:
    """Any permutation, cut into any pieces, merged in any order."""
    whole = result_of(kind, [values])
    shuffled = data.draw(st.permutations(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    pieces = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    order = data.draw(st.permutations(range(len(pieces))))
    assert result_of(kind, pieces, order) == whole


@settings(deadline=None, max_examples=80)
@given(values=st.lists(DOUBLES, min_size=1, max_size=30))
def test_a_sum_is_the_windowed_sum_rounded_once(values: list[float]) -> None:
    """Terms are cut off 96 bits and more below the largest term; the rest is exact. Beyond doubles lies infinity."""
    assert float.fromhex(result_of("sum", [values])) == float_sum(values)


@settings(deadline=None, max_examples=80)
@given(values=st.lists(st.floats(-1e12, 1e12).map(lambda value: round(value, 3)), min_size=1, max_size=60))
def test_sums_of_everyday_numbers_are_correctly_rounded(values: list[float]) -> None:
    """As `math.fsum`: no digit is lost to the order of adding, which a loop over doubles does lose."""
    wanted = math.fsum(values)
    made = float.fromhex(result_of("sum", [values]))
    assert made == pytest.approx(wanted, rel=2**-53, abs=1e12 * 60 * 2.0**-96)


def test_what_a_loop_over_doubles_gets_wrong() -> None:
    """Ten tenths are one; a small number survives beside a large one that goes again."""
    assert float.fromhex(result_of("sum", [[0.1] * 10])) == 1.0
    assert float.fromhex(result_of("sum", [[1e16, 1.0, -1e16]])) == 1.0


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1.0], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([1.7e308, 1.7e308], math.inf),
        ([1.7e308, 1.7e308, -1.7e308], 1.7e308),
        ([0.0, -0.0], 0.0),
        ([-5e-324, 5e-324], 0.0),
    ],
)
def test_what_is_not_finite_follows_the_rules_of_doubles(values: list[float], wanted: float) -> None:
    """Infinities and NaN; a sum that overflows on its way and comes back is exact."""
    made = float.fromhex(result_of("sum", [values]))
    assert made == wanted or (math.isnan(made) and math.isnan(wanted))
    spread = float.fromhex(result_of("var", [values]))
    if not all(map(math.isfinite, values)):
        assert math.isnan(spread)


@settings(deadline=None, max_examples=60)
@given(
    base=st.sampled_from([0.0, 1.0, 1e6, -1e9, 1e12]),
    noise=st.lists(st.integers(-1_000, 1_000), min_size=2, max_size=30),
)
def test_a_small_spread_around_a_large_mean_survives(base: float, noise: list[int]) -> None:
    """Where the textbook's sum of squares has lost every digit: about 29 digits below the squared mean are kept."""
    values = [base + each / 1024 for each in noise]
    mean = sum(map(Fraction, values), Fraction(0)) / len(values)
    wanted = sum(((Fraction(value) - mean) ** 2 for value in values), Fraction(0)) / (len(values) - 1)
    share = 1e-14 + 2.0**-96 * float(mean**2 / wanted) if wanted else 0.0
    assert float.fromhex(result_of("var", [values])) == pytest.approx(float(wanted), rel=share, abs=0)
    assert float.fromhex(result_of("std", [values])) == pytest.approx(math.sqrt(wanted), rel=share, abs=0)


def test_variance_of_extreme_numbers_does_not_overflow_on_the_way() -> None:
    """The squares of 1e200 are no doubles, their spread's root is."""
    assert float.fromhex(result_of("std", [[1e200, -1e200]])) == pytest.approx(math.sqrt(2) * 1e200, rel=1e-12)
    assert float.fromhex(result_of("std", [[1e-200, -1e-200]])) == pytest.approx(math.sqrt(2) * 1e-200, rel=1e-12)
    assert float.fromhex(result_of("var", [[1e200, -1e200]])) == math.inf


def test_below_two_values_there_is_no_spread() -> None:
    """Null, not zero; and the sum of nothing is null too."""
    assert result_of("var", [[1.0]]) == result_of("std", [[]]) == result_of("sum", [[]]) == "null"
    assert result_of("var", [[3.0, 3.0, 3.0]]) == "0x0.0p+0"


def test_limbs_have_room_for_half_a_billion_rows_of_one_commit() -> None:
    """The largest pieces that a row adds, 2**29 times, stay in 64 bits; `relieve` then makes room again."""
    most = (2**limbs.LIMB_BITS - 1) * 2**29
    assert most < limbs._ROOM < 2**62
    full = np.array([[2**61 + 5, -(2**61) - 7, 3, 0]], np.int64)
    relieved = full.copy()
    limbs.relieve(relieved, np.array([0]))

    def number(row: Any) -> int:
        return sum(int(limb) << (limbs.LIMB_BITS * place) for place, limb in enumerate(row))

    assert number(relieved[0]) == number(full[0])
    assert all(0 <= limb < 2**limbs.LIMB_BITS for limb in relieved[0][:-1].tolist())


@settings(deadline=None, max_examples=60)
@given(
    number=st.one_of(
        st.integers(-(2**125), 2**125),
        st.builds(lambda head, gap, tail: (head << gap) + tail, st.integers(-(2**54), 2**54), GAPS, st.integers(-3, 3)),
    ),
    exponent=st.integers(-80, 80),
)
def test_limbs_are_rounded_once(number: int, exponent: int) -> None:
    """To the nearest double, ties to even, whatever the height of the first limb."""
    row = [(number >> (limbs.LIMB_BITS * place)) & (2**limbs.LIMB_BITS - 1) for place in range(3)]
    row.append(number >> (3 * limbs.LIMB_BITS))
    # The same number with limbs that were never carried.
    spread = [row[0] + (5 << limbs.LIMB_BITS), row[1] - 5, row[2] - (3 << limbs.LIMB_BITS), row[3] + 3]
    fractions, powers = limbs.rounded(np.array([row, spread], np.int64), exponent)
    wanted = float(Fraction(number) * Fraction(2) ** exponent)
    assert [math.ldexp(*pair) for pair in zip(fractions, powers.tolist(), strict=True)] == [wanted, wanted]
