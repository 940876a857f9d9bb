"""Exact sums as columns of 32-bit limbs.

Owns the arithmetic of sums that do not depend on the order of their terms.

- A number is sum(limb[i] * 2**(32 * i)) in int64 limbs; limbs may be negative or larger than 32 bits, so adding is
  one scatter per limb and no carry. `normalised` makes the form unique.
- Integers and decimals are exact. Doubles are summed in a window of four limbs that hangs from the largest term: at
  least 96 bits below its leading bit are kept, and what lies below the window is cut off each term.
- So a sum is a function of the set of its terms: any order, any cut into batches and any merge give the same bits.
- A limb has room for 2**29 terms before `relieve` must carry; operators call it once per commit, and no commit has as
  many rows.

Rejected: adding doubles one after the other (the result depends on how partitions interleave in a repartition topic),
and compensated sums (less so, but still).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.engine.state.arrays import Ints, distinct
from headrace.native import native

Limbs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]

LIMB_BITS = 32
WINDOW_LIMBS = 4
NO_TOP = -1
"""`top` of a sum of doubles that has no term but zeros."""
ORIGIN_BITS = 1_074
"""Bit 0 of limb 0 of a sum of doubles is 2**-1074, the smallest double."""
SQUARES_ORIGIN_BITS = 2 * ORIGIN_BITS

HAS_NAN, HAS_PLUS_INFINITY, HAS_MINUS_INFINITY, HAS_VALUE = 1, 2, 4, 8
"""What is known of a sum of doubles; `HAS_VALUE`: any term at all, if only a zero."""

ADDED_LIMBS_MAX = 16
"""Wider numbers are not added up as doubles, where their limbs would overflow."""

_MASK = np.int64((1 << LIMB_BITS) - 1)
_ROOM = 1 << 61
_DOUBLE_EXACT = 1 << 53


def add_integers(limbs: Limbs, slots: Ints, values: Ints) -> None:
    """Add 64-bit integers to sums of two limbs or more."""
    np.add.at(limbs[:, 0], slots, values & _MASK)
    np.add.at(limbs[:, 1], slots, values >> LIMB_BITS)


def add_words(limbs: Limbs, slots: Ints, low: Ints, high: Ints) -> None:
    """Add 128-bit integers, given as their low and high words, to sums of four limbs."""
    np.add.at(limbs[:, 0], slots, low & _MASK)
    np.add.at(limbs[:, 1], slots, (low >> LIMB_BITS) & _MASK)
    np.add.at(limbs[:, 2], slots, high & _MASK)
    np.add.at(limbs[:, 3], slots, high >> LIMB_BITS)


def special_flags(values: Floats) -> Flags:
    """Which of NaN and the infinities each value is; 0 for finite values."""
    flags = np.where(np.isnan(values), HAS_NAN, 0)
    flags[values == np.inf] = HAS_PLUS_INFINITY
    flags[values == -np.inf] = HAS_MINUS_INFINITY
    return flags.astype(np.uint8)


def with_specials(special: Flags, result: Floats) -> Floats:
    """The results, or what NaN and infinities among their terms make of them."""
    special = special & np.uint8(HAS_NAN | HAS_PLUS_INFINITY | HAS_MINUS_INFINITY)
    if not special.any():
        return result
    result = np.where(special == HAS_PLUS_INFINITY, np.inf, result)
    result = np.where(special == HAS_MINUS_INFINITY, -np.inf, result)
    # NaN, or both infinities.
    unknown = (special & HAS_NAN != 0) | (special == HAS_PLUS_INFINITY | HAS_MINUS_INFINITY)
    return np.where(unknown, np.nan, result)


def add_doubles(limbs: Limbs, top: Limbs, slots: Ints, values: Floats) -> None:
    """Add finite doubles to windowed sums; `top` is the limb number of each window's highest limb."""
    mantissa, exponent, negative, nonzero = split_doubles(values)
    slots = slots[nonzero]
    _raise_windows(limbs, top, slots, (exponent + 52) >> 5)
    _deposit(limbs, top, slots, mantissa, exponent, negative)


def add_squares(limbs: Limbs, top: Limbs, slots: Ints, values: Floats) -> None:
    """Add the exact squares of finite doubles; the sums' origin is `SQUARES_ORIGIN_BITS`."""
    mantissa, exponent, _, nonzero = split_doubles(values)
    slots = slots[nonzero]
    exponent = 2 * exponent
    _raise_windows(limbs, top, slots, (exponent + 105) >> 5)
    high, low = mantissa >> 27, mantissa & ((1 << 27) - 1)
    positive = np.zeros(len(slots), np.bool_)
    _deposit(limbs, top, slots, low * low, exponent, positive)
    _deposit(limbs, top, slots, 2 * high * low, exponent + 27, positive)
    _deposit(limbs, top, slots, high * high, exponent + 54, positive)


def merge_windows(limbs: Limbs, top: Limbs, into: Ints, other: Ints) -> None:
    """Add the windowed sums of `other` to those of `into`, pair by pair; no slot is on both sides."""
    filled = top[other] != NO_TOP
    into, other = into[filled], other[filled]
    _raise_windows(limbs, top, into, top[other])
    shift = top[into] - top[other]
    flat = limbs.reshape(-1)
    for limb in range(WINDOW_LIMBS):
        target = limb - shift
        kept = target >= 0
        np.add.at(flat, into[kept] * WINDOW_LIMBS + target[kept], limbs[other[kept], limb])


def relieve(limbs: Limbs, slots: Ints) -> None:
    """Carry where a limb is about to run out of room."""
    if not len(slots) or (native is not None and not native.any_beyond(limbs, slots, limbs.shape[1], _ROOM)):
        return
    tight = slots[(np.abs(limbs.take(slots, axis=0)) > _ROOM).any(axis=1)]
    if len(tight):
        limbs[tight] = normalised(limbs[tight])


def normalised(limbs: Limbs) -> Limbs:
    """The same numbers with all limbs but the highest in [0, 2**32)."""
    result = limbs.copy()
    for limb in range(limbs.shape[1] - 1):
        carry = result[:, limb] >> LIMB_BITS
        result[:, limb] &= _MASK
        result[:, limb + 1] += carry
    return result


def rounded(limbs: Limbs, exponent: Limbs | int) -> tuple[Floats, Limbs]:
    """The numbers times 2**exponent as (f, e): f * 2**e, f being the number correctly rounded to 53 bits."""
    scale = np.empty(len(limbs), np.int64)
    scale[:] = exponent
    if limbs.shape[1] > ADDED_LIMBS_MAX:
        return _from_digits(limbs, scale)
    numbers, is_sure = _added(limbs)
    if not is_sure.all():
        others = np.flatnonzero(~is_sure)
        numbers[others], scale[others] = _from_digits(limbs[others], scale[others])
    return numbers, scale


def _added(limbs: Limbs) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The numbers as doubles, and which of them are surely rounded right: nothing was lost before the last addition."""
    is_sure: Any = (np.abs(limbs) <= _DOUBLE_EXACT).all(axis=1)
    total, error = np.zeros(len(limbs)), np.zeros(len(limbs))
    for limb in range(limbs.shape[1] - 1, -1, -1):
        total, part = two_sum(total, limbs[:, limb].astype(np.float64) * 2.0 ** (LIMB_BITS * limb))
        error, lost = two_sum(error, part)
        is_sure &= lost == 0
    return total + error, is_sure


def _from_digits(limbs: Limbs, exponent: Limbs) -> tuple[Floats, Limbs]:
    digits, negative = absolute_digits(limbs)
    # Two empty limbs below, so that three limbs can be taken at any height.
    padded = np.concatenate([np.zeros((len(digits), 2), np.uint64), digits], axis=1)
    height = padded.shape[1] - 1 - np.argmax(padded[:, ::-1] != 0, axis=1)
    height = np.maximum(height, 2)
    rows = np.arange(len(padded))
    first, second, third = padded[rows, height], padded[rows, height - 1], padded[rows, height - 2]
    width = np.frexp(first.astype(np.float64))[1]
    shift = np.minimum(LIMB_BITS - width, LIMB_BITS - 1).astype(np.uint64)
    down = np.uint64(LIMB_BITS) - shift
    head = (((first << np.uint64(LIMB_BITS)) | second) << shift) | (third >> down)
    below = np.arange(padded.shape[1])[None, :] < (height - 2)[:, None]
    lost = ((third & ((np.uint64(1) << down) - np.uint64(1))) != 0) | ((padded != 0) & below).any(axis=1)
    # A lost bit shows in the last bit of 64, so that rounding to 53 sees that the number is not a tie.
    number = (head | lost.astype(np.uint64)).astype(np.float64)
    scale = LIMB_BITS * (height - 2 - 1) - shift.astype(np.int64) + exponent
    return np.where(negative, -number, number), scale


def expansion(limbs: Limbs, exponent: Limbs) -> tuple[Floats, Floats]:
    """The numbers times 2**exponent as unevaluated sums high + low of two doubles, about 106 bits."""
    digits, negative = absolute_digits(limbs)
    count = digits.shape[1]
    high = np.zeros(len(digits))
    low = np.zeros(len(digits))
    for limb in range(count - 1, -1, -1):
        term = np.ldexp(digits[:, limb].astype(np.float64), LIMB_BITS * limb + exponent)
        total = high + term
        low += term - (total - high)
        high = total
    high, low = fast_two_sum(high, low)
    return np.where(negative, -high, high), np.where(negative, -low, low)


def two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a + b and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def fast_two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a + b and its rounding error, |a| >= |b|."""
    total = a + b
    return total, b - (total - a)


def absolute_digits(limbs: Limbs) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Absolute values as limbs in [0, 2**32), one more than before, and the signs."""
    even = normalised(limbs)
    negative = even[:, -1] < 0
    if negative.any():
        even[negative] = normalised(-even[negative])
    high = even[:, -1:]
    return np.concatenate([even[:, :-1], high & _MASK, high >> LIMB_BITS], axis=1).astype(np.uint64), negative


def split_doubles(values: Floats) -> tuple[Ints, Ints, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of the nonzero values: mantissa, exponent (value = mantissa * 2**(exponent - 1074)), sign; and which they are."""
    bits = values.view(np.int64)
    nonzero = (bits & np.int64(2**63 - 1)) != 0
    bits = bits[nonzero]
    field = (bits >> 52) & 0x7FF
    fraction = bits & ((1 << 52) - 1)
    mantissa = np.where(field > 0, fraction | (1 << 52), fraction)
    return mantissa, np.maximum(field, 1) - 1, bits < 0, nonzero


def limb_pieces(number: Ints, exponent: Ints) -> tuple[Ints, tuple[Ints, Ints, Ints]]:
    """number * 2**exponent (number below 2**55) as the number of its lowest limb, and three limbs from there."""
    shift = exponent & (LIMB_BITS - 1)
    lower = (number & _MASK) << shift
    upper = ((number >> LIMB_BITS) << shift) + (lower >> LIMB_BITS)
    return exponent >> 5, (lower & _MASK, upper & _MASK, upper >> LIMB_BITS)


def _raise_windows(limbs: Limbs, top: Limbs, slots: Ints, wanted: Limbs) -> None:
    """Let each slot's window reach up to limb `wanted`; the lowest limbs fall out."""
    higher = wanted > top[slots]
    if not higher.any():
        return
    movers = distinct(slots[higher])
    before = top[movers]
    np.maximum.at(top, slots[higher], wanted[higher].astype(top.dtype))
    shift = top[movers] - before
    source = np.arange(WINDOW_LIMBS)[None, :] + shift[:, None]
    kept = np.take_along_axis(limbs.take(movers, axis=0), np.minimum(source, WINDOW_LIMBS - 1), axis=1)
    limbs[movers] = np.where(source < WINDOW_LIMBS, kept, 0)


def _deposit(limbs: Limbs, top: Limbs, slots: Ints, number: Ints, exponent: Ints, negative: Any) -> None:
    """Add number * 2**exponent (number below 2**55, no limb above `top`), cut off below the window."""
    limb, pieces = limb_pieces(number, exponent)
    position = limb - (top[slots] - (WINDOW_LIMBS - 1))
    flat = limbs.reshape(-1)
    for piece in pieces:
        kept = (position >= 0) & (piece != 0)
        signed = np.where(negative, -piece, piece)
        np.add.at(flat, slots[kept] * WINDOW_LIMBS + position[kept], signed[kept])
        position = position + 1
