//! Exact sums of doubles, as `headrace.engine.aggregates.limbs` holds them.
//!
//! Owns adding to the limbs and rounding them; that module says what they mean.
//!
//! - Limb by limb the numbers are those of the NumPy path: no carry is made here, so both paths can go on with a sum.
//! - Rounding is right to the last bit, ties to even.

use pyo3::prelude::*;

use super::memory::{Cells, check_lengths, check_slots, prefetch};
use crate::buffer::View;

const LIMBS: usize = 4;
const LIMB_BITS: u32 = 32;
const MASK: i64 = (1 << LIMB_BITS) - 1;
const HAS_NAN: u8 = 1;
const HAS_PLUS_INFINITY: u8 = 2;
const HAS_MINUS_INFINITY: u8 = 4;
const HAS_VALUE: u8 = 8;
const AHEAD: usize = 12;

/// The columns of a sum, by slot.
struct Sums {
    limbs: Cells<i64>,
    top: Cells<i16>,
    special: Cells<u8>,
}

impl Sums {
    fn add(&self, slot: usize, value: f64) {
        let bits = value.to_bits();
        let field = (bits >> 52 & 0x7ff) as i64;
        let fraction = (bits & ((1 << 52) - 1)) as i64;
        let special = match (field, fraction) {
            (0x7ff, 0) if value > 0.0 => HAS_PLUS_INFINITY,
            (0x7ff, 0) => HAS_MINUS_INFINITY,
            (0x7ff, _) => HAS_NAN,
            _ => 0,
        };
        let before = self.special.get(slot);
        if before | HAS_VALUE | special != before {
            self.special.set(slot, before | HAS_VALUE | special);
        }
        if special == 0 && (field | fraction) != 0 {
            let mantissa = if field > 0 {
                fraction | 1 << 52
            } else {
                fraction
            };
            self.add_finite(slot, mantissa, field.max(1) - 1, value < 0.0);
        }
    }

    fn add_finite(&self, slot: usize, mantissa: i64, exponent: i64, is_negative: bool) {
        let wanted = (exponent + 52) >> 5;
        let mut top = i64::from(self.top.get(slot));
        if wanted > top {
            self.raise(slot, (wanted - top) as usize);
            top = wanted;
            self.top.set(slot, top as i16);
        }
        let shift = exponent & i64::from(LIMB_BITS - 1);
        let lower = (mantissa & MASK) << shift;
        let upper = ((mantissa >> LIMB_BITS) << shift) + (lower >> LIMB_BITS);
        let lowest = (exponent >> 5) - (top - (LIMBS as i64 - 1));
        for (place, piece) in [lower & MASK, upper & MASK, upper >> LIMB_BITS]
            .into_iter()
            .enumerate()
        {
            let limb = lowest + place as i64;
            if piece != 0 && (0..LIMBS as i64).contains(&limb) {
                let at = slot * LIMBS + limb as usize;
                let signed = if is_negative { -piece } else { piece };
                self.limbs.set(at, self.limbs.get(at).wrapping_add(signed));
            }
        }
    }

    /// Lets the window reach so many limbs higher; the lowest fall out.
    fn raise(&self, slot: usize, shift: usize) {
        for limb in 0..LIMBS {
            let source = limb.saturating_add(shift);
            let value = if source < LIMBS {
                self.limbs.get(slot * LIMBS + source)
            } else {
                0
            };
            self.limbs.set(slot * LIMBS + limb, value);
        }
    }
}

/// Adds doubles to windowed sums by slot.
#[pyfunction]
fn add_doubles_at(
    py: Python<'_>,
    limbs: &Bound<'_, PyAny>,
    top: &Bound<'_, PyAny>,
    special: &Bound<'_, PyAny>,
    slots: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let sums = Sums {
        limbs: Cells::of(limbs)?,
        top: Cells::of(top)?,
        special: Cells::of(special)?,
    };
    let (slots, values) = (View::<i64>::of(slots)?, View::<f64>::of(values)?);
    let (slots, values) = (slots.slice(), values.slice());
    check_lengths(slots.len(), values.len())?;
    check_slots(
        slots,
        sums.top
            .len()
            .min(sums.special.len())
            .min(sums.limbs.len() / LIMBS),
    )?;
    py.detach(|| {
        for (row, (slot, value)) in slots.iter().zip(values).enumerate() {
            if let Some(later) = slots.get(row + AHEAD) {
                let later = *later as usize;
                sums.limbs.prefetch(later * LIMBS);
                sums.top.prefetch(later);
                sums.special.prefetch(later);
            }
            sums.add(*slot as usize, *value);
        }
    });
    Ok(())
}

/// The number with these limbs, rounded to 53 bits.
fn rounded(limbs: &[i64]) -> f64 {
    let pair = |at: usize| i128::from(limbs[at]) + (i128::from(limbs[at + 1]) << LIMB_BITS);
    let low = pair(0);
    let high = pair(2) + (low >> 64);
    let (is_negative, low) = (high < 0, low as u64);
    // The absolute value: 192 bits, the lower 64 in `low`.
    let (high, low) = if is_negative {
        (!(high as u128) + u128::from(low == 0), low.wrapping_neg())
    } else {
        (high as u128, low)
    };
    let number = if high == 0 {
        low as f64
    } else {
        let shift = high.leading_zeros();
        let first = high << shift
            | if shift == 0 {
                0
            } else {
                u128::from(low) << 64 >> (128 - shift)
            };
        let lost = if shift >= 64 { 0 } else { low << shift };
        // A lost bit shows in the last of 64, so that rounding to 53 sees that the number is not a tie.
        let rest = (first as u64 != 0) | (lost != 0);
        let head = (first >> 64) as u64 | u64::from(rest);
        head as f64 * 2f64.powi(128 - shift as i32)
    };
    if is_negative { -number } else { number }
}

/// Writes each slot's number (four limbs, i64) as a double into `out`.
#[pyfunction]
fn round_at(
    py: Python<'_>,
    limbs: &Bound<'_, PyAny>,
    slots: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (limbs, slots, out) = (
        View::<i64>::of(limbs)?,
        View::<i64>::of(slots)?,
        Cells::<f64>::of(out)?,
    );
    let (limbs, slots) = (limbs.slice(), slots.slice());
    check_lengths(slots.len(), out.len())?;
    check_slots(slots, limbs.len() / LIMBS)?;
    py.detach(|| {
        for (row, slot) in slots.iter().enumerate() {
            if let Some(later) = slots.get(row + AHEAD) {
                prefetch(limbs.as_ptr().wrapping_add(*later as usize * LIMBS));
            }
            out.set(row, rounded(&limbs[*slot as usize * LIMBS..][..LIMBS]));
        }
    });
    Ok(())
}

/// `number * 2^exponent`, rounded once where it is too small for all its bits. `number` is 0 or at least 1.
fn scaled(number: f64, exponent: i64) -> f64 {
    let power = |exponent: i64| f64::from_bits(((exponent + 1023) as u64) << 52);
    match exponent {
        -1022..=1023 => number * power(exponent),
        // Exact: nothing is below the smallest normal number yet.
        ..-1022 => number * power(-1022) * power((exponent + 1022).max(-1022)),
        _ => number * power(1023) * power((exponent - 1023).min(1023)),
    }
}

/// Writes each slot's sum as a double into `out`: its limbs, the highest of which is limb `top` (i16) counted from
/// `2^-origin_bits`.
#[pyfunction]
fn sums_at(
    py: Python<'_>,
    limbs: &Bound<'_, PyAny>,
    top: &Bound<'_, PyAny>,
    slots: &Bound<'_, PyAny>,
    origin_bits: i64,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (limbs, top, slots, out) = (
        View::<i64>::of(limbs)?,
        View::<i16>::of(top)?,
        View::<i64>::of(slots)?,
        Cells::<f64>::of(out)?,
    );
    let (limbs, top, slots) = (limbs.slice(), top.slice(), slots.slice());
    check_lengths(slots.len(), out.len())?;
    check_slots(slots, (limbs.len() / LIMBS).min(top.len()))?;
    py.detach(|| {
        for (row, slot) in slots.iter().enumerate() {
            if let Some(later) = slots.get(row + AHEAD) {
                prefetch(limbs.as_ptr().wrapping_add(*later as usize * LIMBS));
                prefetch(top.as_ptr().wrapping_add(*later as usize));
            }
            let slot = *slot as usize;
            let lowest = i64::from(top[slot]) - (LIMBS as i64 - 1);
            let exponent = i64::from(LIMB_BITS) * lowest - origin_bits;
            out.set(
                row,
                scaled(rounded(&limbs[slot * LIMBS..][..LIMBS]), exponent),
            );
        }
    });
    Ok(())
}

/// Whether a limb of these slots is beyond `room`, either way.
#[pyfunction]
fn any_beyond(
    py: Python<'_>,
    limbs: &Bound<'_, PyAny>,
    slots: &Bound<'_, PyAny>,
    width: usize,
    room: i64,
) -> PyResult<bool> {
    let (limbs, slots) = (View::<i64>::of(limbs)?, View::<i64>::of(slots)?);
    let (limbs, slots) = (limbs.slice(), slots.slice());
    check_slots(slots, limbs.len().checked_div(width).unwrap_or(0))?;
    Ok(py.detach(|| {
        slots.iter().enumerate().any(|(row, slot)| {
            if let Some(later) = slots.get(row + AHEAD) {
                prefetch(limbs.as_ptr().wrapping_add(*later as usize * width));
            }
            limbs[*slot as usize * width..][..width]
                .iter()
                .any(|limb| limb.unsigned_abs() > room as u64)
        })
    }))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(add_doubles_at, module)?)?;
    module.add_function(wrap_pyfunction!(round_at, module)?)?;
    module.add_function(wrap_pyfunction!(sums_at, module)?)?;
    module.add_function(wrap_pyfunction!(any_beyond, module)?)
}
