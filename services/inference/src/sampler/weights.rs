//! Passes over the whole vocabulary, written so that the compiler turns them into vector code.

/// Elements that a pass takes at once.
const LANES: usize = 16;

/// The largest of the values, or `None` if one of them is not a number or is +inf.
pub(super) fn highest(values: &[f32]) -> Option<f32> {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut usable = [1u32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = chunk[lane];
            highest[lane] = if value > highest[lane] { value } else { highest[lane] };
            // False of what is not a number, too.
            usable[lane] &= u32::from(value < f32::INFINITY);
        }
    }
    let all_usable = usable == [1; LANES] && rest.iter().all(|value| *value < f32::INFINITY);
    all_usable.then(|| highest.iter().chain(rest).fold(f32::NEG_INFINITY, |most, value| most.max(*value)))
}

/// The weights `exp((logit - highest) / temperature)` of all logits, with a sum for each chunk of them.
#[derive(Debug, Default)]
pub(super) struct Weights {
    each: Vec<f32>,
    chunk_sums: Vec<f32>,
}

/// Weights that are summed together, so that a draw skips most of them.
const CHUNK: usize = 64;

impl Weights {
    /// Computes the weights; those below `floor` count as 0. Answers their sum.
    pub(super) fn fill(&mut self, logits: &[f32], highest: f32, temperature: f32, floor: f32) -> f64 {
        self.each.clear();
        self.each.extend(logits.iter().map(|logit| {
            let weight = exp((logit - highest) / temperature);
            if weight >= floor { weight } else { 0.0 }
        }));
        self.chunk_sums.clear();
        self.chunk_sums.extend(self.each.chunks(CHUNK).map(sum));
        self.chunk_sums.iter().map(|sum| f64::from(*sum)).sum()
    }

    /// The index at which the running sum of the weights passes `target`, which is below their total.
    pub(super) fn pick(&self, mut target: f64) -> Option<usize> {
        let mut chunk = 0;
        while chunk + 1 < self.chunk_sums.len() && target >= f64::from(self.chunk_sums[chunk]) {
            target -= f64::from(self.chunk_sums[chunk]);
            chunk += 1;
        }
        let start = chunk * CHUNK;
        for (offset, weight) in self.each[start..].iter().enumerate() {
            target -= f64::from(*weight);
            if target < 0.0 {
                return Some(start + offset);
            }
        }
        // Rounding may carry the target past the end: the last token that is possible at all.
        self.each.iter().rposition(|weight| *weight > 0.0)
    }
}

fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    sums.iter().chain(rest).sum()
}

/// `e^x` for `x` of at most 0, within 2 units in the last place; 0 where the true value is below 1.7e-38.
///
/// Unlike the library's, it has no branch and no call, so a loop over it becomes vector code.
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which then stands in the low bits of the sum.
    const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23
    /// ln 2 in two parts: the first has few bits, so that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Below this the result is not a normal number.
    const LEAST: f32 = -87.0;
    let within = if x > LEAST { x } else { LEAST };
    let rounded = within * std::f32::consts::LOG2_E + ROUNDER;
    let power = rounded - ROUNDER;
    let rest = within - power * LN_2_HIGH - power * LN_2_LOW;
    let series = 1.987_569_1e-4;
    let series = series * rest + 1.398_199_9e-3;
    let series = series * rest + 8.333_452e-3;
    let series = series * rest + 4.166_579_6e-2;
    let series = series * rest + 1.666_666_5e-1;
    let series = series * rest + 0.5;
    let mantissa = series * rest * rest + rest + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    let value = mantissa * f32::from_bits(exponent << 23);
    if x > LEAST { value } else { 0.0 }
}
