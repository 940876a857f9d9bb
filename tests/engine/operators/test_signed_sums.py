"""Sums that rows are taken back from: exact for doubles of any size, whatever came and went."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.engine.aggregates.exact_doubles import ExactDoubles
from headrace.engine.aggregates.signed import SignedRows
from headrace.engine.aggregates.signed_sums import SignedDoubleSum, SignedSpread
from headrace.engine.state.slab import Slab

FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e308, -1e308, 5e-324, 0.1, 1e16, 1.0])
SLOT = np.zeros(1, np.int64)


def signed(values: list[float], sign: int) -> SignedRows:
    """Rows of one slot that come or go."""
    slots = np.zeros(len(values), np.int64)
    return SignedRows(slots, np.full(len(values), sign, np.int64), None, pl.Series(values, dtype=pl.Float64))


def rounded(value: Fraction) -> float:
    """The nearest double."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@settings(max_examples=200, deadline=None)
@given(stay=st.lists(FLOATS, max_size=6), leave=st.lists(FLOATS, max_size=6))
def test_a_sum_is_that_of_the_terms_that_stay(stay: list[float], leave: list[float]) -> None:
    """Correctly rounded, from the smallest to the largest double."""
    slab = Slab()
    total = SignedDoubleSum(slab, "sum")
    slab.allocate(1, logged=False)
    for rows in (signed(leave, 1), signed(stay, 1), signed(leave, -1)):
        total.change(rows)
    (found,) = total.result(SLOT)
    if not stay:
        assert found is None
        return
    wanted = rounded(sum(map(Fraction, stay), Fraction(0)))
    # The last step may round a number below the normal ones twice.
    assert found == wanted or (abs(found - wanted) <= 5e-324 and abs(wanted) < 2.3e-308)


@settings(max_examples=100, deadline=None)
@given(
    stay=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6),
    leave=st.lists(st.floats(-1e100, 1e100), max_size=6),
)
@example(stay=[999000.338410204] * 3, leave=[])
def test_a_variance_is_that_of_the_values_that_stay(stay: list[float], leave: list[float]) -> None:
    """Values that are larger by a hundred digits came and went. What is left of the squares is known to 96 bits."""
    slab = Slab()
    spread = SignedSpread(slab, "var", root=False)
    slab.allocate(1, logged=False)
    for rows in (signed(leave, 1), signed(stay, 1), signed(leave, -1)):
        spread.change(rows)
    exact = [Fraction(value) for value in stay]
    mean = sum(exact, Fraction(0)) / len(exact)
    wanted = float(sum(((value - mean) ** 2 for value in exact), Fraction(0)) / (len(exact) - 1))
    (found,) = spread.result(SLOT)
    assert found == pytest.approx(wanted, rel=1e-12, abs=max(float(mean**2) * 2.0**-96, 1e-300))


def test_limbs_are_carried_before_they_overflow() -> None:
    """A limb that is full goes on in the next one, and nothing is lost."""
    slab = Slab()
    total = ExactDoubles(slab, "sum", squares=False)
    slab.allocate(1, logged=False)
    many = 1 << 31
    for sign in (1, 1, 1, -1, -1):
        # As many rows at once as no batch has.
        total._totals.add(SLOT, np.array([40]), np.array([sign * (many << 30)]))
        total._carry(SLOT)
    number, exponent = total.dense(SLOT)
    lowest = 32 * 40 - total._origin_bits
    value = sum(int(limb) << (32 * place) for place, limb in enumerate(number[0].tolist()))
    assert Fraction(value) * Fraction(2) ** int(exponent[0]) == Fraction(many << 30) * Fraction(2) ** lowest


def test_specials_go_as_they_came() -> None:
    """NaN and both infinities are counted."""
    slab = Slab()
    total = SignedDoubleSum(slab, "sum")
    slab.allocate(1, logged=False)
    told = []
    for value, sign in [
        (1.5, 1),
        (math.inf, 1),
        (-math.inf, 1),
        (math.inf, -1),
        (math.nan, 1),
        (-math.inf, -1),
        (math.nan, -1),
    ]:
        total.change(signed([value], sign))
        told.append(total.result(SLOT)[0])
    assert [repr(each) for each in told] == ["1.5", "inf", "nan", "-inf", "nan", "nan", "1.5"]
