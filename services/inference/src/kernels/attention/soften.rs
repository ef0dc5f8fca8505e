//! Scores become exponentials, sixteen at a time.

use crate::kernels::{
    factor::Factor,
    lanes::{Lanes, WIDTH, exp},
};

/// The largest of the first `seen` scores.
///
/// # Safety
/// The instructions of `L` are present.
#[inline(always)]
pub(super) unsafe fn largest_of<L: Lanes>(scores: &[f32], seen: usize) -> f32 {
    // SAFETY: each chunk holds sixteen values; the instructions are present, by the caller's promise.
    unsafe {
        let mut largest = L::splat(f32::NEG_INFINITY);
        for (index, chunk) in scores.as_chunks::<WIDTH>().0.iter().enumerate() {
            let count = seen.saturating_sub(index * WIDTH);
            largest = largest.max(L::load(chunk.as_ptr()).first(count, f32::NEG_INFINITY));
        }
        largest.largest()
    }
}

/// Writes `e^(score - largest)` of the first `seen` scores, times the units where there are any, and zero for the others;
/// returns sums of the exponentials in sixteen lanes.
///
/// # Safety
/// As above.
#[inline(always)]
pub(super) unsafe fn exponentials<L: Lanes, F: Factor<L>>(
    (scores, units): (&[f32], Option<&[f32]>),
    weights: &mut [F],
    seen: usize,
    largest: f32,
) -> L {
    // SAFETY: each chunk holds sixteen values; the instructions are present, by the caller's promise.
    unsafe {
        let mut total = L::splat(0.0);
        let chunks = scores.as_chunks::<WIDTH>().0.iter().zip(weights.as_chunks_mut::<WIDTH>().0);
        for (index, (scores, weights)) in chunks.enumerate() {
            let count = seen.saturating_sub(index * WIDTH);
            // Slots beyond `seen` may hold anything, NaN too: they are cut off before and after.
            let score = L::load(scores.as_ptr()).first(count, largest);
            let weight = exp(score.sub(L::splat(largest))).first(count, 0.0);
            total = total.add(weight);
            let weight = match units {
                Some(units) => {
                    let units = &units[index * WIDTH..][..WIDTH];
                    weight.mul(L::load(units.as_ptr())).first(count, 0.0)
                }
                None => weight,
            };
            F::store(weight, weights.as_mut_ptr());
        }
        total
    }
}
