//! Half a byte a weight, a scale and a least value a group.

use half::f16;

use super::Codes;
use crate::Group;

/// The largest code.
const MOST: f32 = 15.0;

/// How many steps the range between the least and the largest weight is tried to have. Fewer than 15 leave room that the
/// fit uses, more cut off both ends.
const STEPS: [f32; 12] = [15.0, 13.5, 14.0, 14.5, 15.5, 16.0, 16.5, 17.0, 17.5, 18.0, 19.0, 20.0];

/// How often scale and least value are fitted to the codes, and the codes to them.
const FITS: usize = 2;

/// Quantizes rows of `importance.len()` finite weights, each a whole number of groups.
pub(super) fn quantize(values: &[f32], importance: &[f32], group: Group) -> Codes {
    match group {
        Group::G32 => by::<32>(values, importance, group),
        Group::G64 => by::<64>(values, importance, group),
        Group::G128 => by::<128>(values, importance, group),
    }
}

fn by<const N: usize>(values: &[f32], importance: &[f32], group: Group) -> Codes {
    let groups = values.len() / N;
    let mut codes = Vec::with_capacity(values.len() / 2);
    let (mut scales, mut mins) = (Vec::with_capacity(groups), Vec::with_capacity(groups));
    let weights = importance.as_chunks::<N>().0.iter().cycle();
    for (values, weights) in values.as_chunks::<N>().0.iter().zip(weights) {
        let line = best(values, weights);
        let nibbles = line.codes(values);
        // Whole numbers from 0 to 15.
        codes.extend(nibbles.as_chunks().0.iter().map(|[even, odd]| *even as u8 | (*odd as u8) << 4));
        scales.push(f16::from_f32(line.scale));
        mins.push(f16::from_f32(line.min));
    }
    Codes::Int4 { codes, scales, mins, group }
}

/// `weight = code * scale + min`, both 16-bit floats.
#[derive(Clone, Copy, Debug)]
struct Line {
    scale: f32,
    min: f32,
}

fn best<const N: usize>(values: &[f32; N], weights: &[f32; N]) -> Line {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let range = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    let mut best = (f32::INFINITY, Line { scale: 0.0, min: 0.0 });
    for steps in STEPS {
        let mut line = Line::rounded(range / steps, least);
        for fit in 0..=FITS {
            let codes = line.codes(values);
            let error = line.error(&codes, values, weights);
            if error < best.0 {
                best = (error, line);
            }
            if fit < FITS {
                line = Line::fitted(&codes, values, weights).unwrap_or(line);
            }
        }
    }
    best.1
}

impl Line {
    /// As it will be stored, so that codes are chosen for what they will mean.
    fn rounded(scale: f32, min: f32) -> Self {
        Self { scale: f16::from_f32(scale).to_f32(), min: f16::from_f32(min).to_f32() }
    }

    /// The line that comes closest with these codes, by weighted least squares; none if all codes are one.
    fn fitted<const N: usize>(codes: &[f32; N], values: &[f32; N], weights: &[f32; N]) -> Option<Self> {
        let [mut total, mut code_sum, mut square, mut value_sum, mut cross] = [0.0_f32; 5];
        for index in 0..N {
            let (code, value, weight) = (codes[index], values[index], weights[index]);
            total += weight;
            code_sum += weight * code;
            square += weight * code * code;
            value_sum += weight * value;
            cross += weight * code * value;
        }
        let determinant = total * square - code_sum * code_sum;
        let scale = (total * cross - code_sum * value_sum) / determinant;
        let line = Self::rounded(scale, (value_sum - scale * code_sum) / total);
        (determinant > 0.0 && line.scale > 0.0 && line.scale.is_finite() && line.min.is_finite())
            .then_some(line)
    }

    fn codes<const N: usize>(self, values: &[f32; N]) -> [f32; N] {
        let inverse = if self.scale > 0.0 { self.scale.recip() } else { 0.0 };
        values.map(|value| rounded(((value - self.min) * inverse).clamp(0.0, MOST)))
    }

    fn error<const N: usize>(self, codes: &[f32; N], values: &[f32; N], weights: &[f32; N]) -> f32 {
        let mut sum = 0.0;
        for index in 0..N {
            let difference = values[index] - (codes[index] * self.scale + self.min);
            sum += weights[index] * difference * difference;
        }
        sum
    }
}

/// The nearest whole number, for numbers far below 2^22. (`f32::round` is a call into the C library on x86-64's baseline.)
#[inline(always)]
pub(super) fn rounded(value: f32) -> f32 {
    /// One and a half times 2^23: sums with it have no bits left for a fraction.
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}
