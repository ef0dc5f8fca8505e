//! A byte a weight, a scale an output.

use super::Codes;

/// The largest code: as many below zero as above.
const MOST: f32 = 127.0;

/// Shares of the largest weight that the range is tried to end at. Codes are so fine that cutting off more never pays.
const CUTS: [f32; 6] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8];

/// Quantizes rows of `importance.len()` finite weights.
pub(super) fn quantize(values: &[f32], importance: &[f32]) -> Codes {
    let rows = values.chunks_exact(importance.len());
    let mut codes = Vec::with_capacity(values.len());
    let mut scales = Vec::with_capacity(rows.len());
    for row in rows {
        let scale = best_scale(row, importance);
        // Whole numbers from -127 to 127.
        codes.extend(row.iter().map(|value| code(*value, inverse(scale)) as i8));
        scales.push(scale);
    }
    Codes::Int8 { values: codes, scales }
}

fn best_scale(row: &[f32], importance: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let mut best = (f32::INFINITY, 0.0);
    for cut in CUTS {
        let plain = largest * cut / MOST;
        for scale in [plain, fitted(row, importance, plain)] {
            let error = error(row, importance, scale);
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    best.1
}

/// The scale that comes closest with the codes that `scale` leads to, by least squares.
fn fitted(row: &[f32], importance: &[f32], scale: f32) -> f32 {
    let inverse = inverse(scale);
    let (mut cross, mut square) = (0.0, 0.0);
    for (value, weight) in row.iter().zip(importance) {
        let code = code(*value, inverse);
        cross += weight * code * value;
        square += weight * code * code;
    }
    if square > 0.0 { cross / square } else { scale }
}

fn error(row: &[f32], importance: &[f32], scale: f32) -> f32 {
    let inverse = inverse(scale);
    let weighted = |(value, weight): (&f32, &f32)| weight * (value - code(*value, inverse) * scale).powi(2);
    row.iter().zip(importance).map(weighted).sum()
}

#[inline(always)]
fn code(value: f32, inverse: f32) -> f32 {
    super::int4::rounded((value * inverse).clamp(-MOST, MOST))
}

fn inverse(scale: f32) -> f32 {
    if scale > 0.0 { scale.recip() } else { 0.0 }
}
