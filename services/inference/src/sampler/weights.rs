//! Passes over the whole vocabulary, written so that the compiler turns them into vector code.

use super::vector::{Loops, Vector};

/// Elements that a pass takes at once.
const LANES: usize = 16;

/// Weights that are summed together, so that a draw skips most of them.
const CHUNK: usize = 64;

/// The weights `exp((logit - highest) / temperature)` of all logits, from 0 to 1, with a sum for each chunk of them.
#[derive(Debug, Default)]
pub(super) struct Weights {
    each: Vec<f32>,
    chunk_sums: Vec<f32>,
    radix: Radix,
    vector: Vector,
}

impl Weights {
    #[cfg(all(test, feature = "torch"))]
    pub(super) fn on(vector: Vector) -> Self {
        Self { vector, ..Self::default() }
    }

    /// Computes all weights.
    pub(super) fn fill(&mut self, logits: &[f32], highest: f32, temperature: f32) {
        let Self { each, chunk_sums, vector, .. } = self;
        vector.run(Fill { logits, highest, temperature, each, chunk_sums });
    }

    /// The sum of the weights.
    pub(super) fn total(&self) -> f64 {
        self.chunk_sums.iter().map(|sum| f64::from(*sum)).sum()
    }

    /// Keeps the `count` largest weights, of equals those of the lowest ids; the others become 0.
    pub(super) fn keep_count(&mut self, count: usize) {
        self.keep(count as f64, |_| 1.0);
    }

    /// Keeps the fewest largest weights whose sum reaches `mass`; the others become 0.
    pub(super) fn keep_mass(&mut self, mass: f64) {
        self.keep(mass, f64::from);
    }

    /// Keeps the weights of at least `floor`; the others become 0.
    pub(super) fn keep_above(&mut self, floor: f32) {
        self.each.iter_mut().for_each(|weight| *weight = if *weight >= floor { *weight } else { 0.0 });
        self.sum_up();
    }

    /// The indices of the weights that are not 0.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<usize> {
        (0..self.each.len()).filter(|index| self.each[*index] > 0.0).collect()
    }

    fn keep(&mut self, enough: f64, measure: impl Fn(f32) -> f64 + Copy) {
        let mut last = self.radix.last_kept(&self.each, enough, measure);
        for weight in &mut self.each {
            let kept = *weight > last.weight || (*weight == last.weight && last.equals > 0);
            last.equals -= usize::from(kept && *weight == last.weight);
            *weight = if kept { *weight } else { 0.0 };
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        self.chunk_sums.clear();
        self.chunk_sums.extend(self.each.chunks(CHUNK).map(sum));
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

/// The pass behind [`Weights::fill`]: each chunk is summed while it is at hand.
struct Fill<'a> {
    logits: &'a [f32],
    highest: f32,
    temperature: f32,
    each: &'a mut Vec<f32>,
    chunk_sums: &'a mut Vec<f32>,
}

impl Loops for Fill<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { logits, highest, temperature, each, chunk_sums } = self;
        // What is there is overwritten: a vector of the right length is not cleared first.
        each.resize(logits.len(), 0.0);
        chunk_sums.clear();
        chunk_sums.reserve(logits.len().div_ceil(CHUNK));
        for (weights, logits) in each.chunks_mut(CHUNK).zip(logits.chunks(CHUNK)) {
            for (weight, logit) in weights.iter_mut().zip(logits) {
                *weight = exp((logit - highest) / temperature);
            }
            chunk_sums.push(sum(weights));
        }
    }
}

/// The smallest weight that is kept, and how many of those equal to it are.
struct LastKept {
    weight: f32,
    equals: usize,
}

/// Finds a rank among weights without sorting them: by their bits, which order numbers that are not negative as their
/// values do, ten at a time from the top.
#[derive(Debug, Default)]
struct Radix {
    buckets: Vec<f64>,
}

impl Radix {
    /// How far the weights' bits are shifted on each level.
    const SHIFTS: [u32; 3] = [20, 10, 0];
    /// Buckets of a level: ten bits, and the sign, which is always 0.
    const BUCKETS: usize = 1 << 11;

    /// Goes through the weights from the largest until their measures add up to `enough`.
    fn last_kept(&mut self, weights: &[f32], enough: f64, measure: impl Fn(f32) -> f64) -> LastKept {
        let mut prefix = 0u32;
        let mut before = 0.0;
        for (level, shift) in Self::SHIFTS.into_iter().enumerate() {
            self.buckets.clear();
            self.buckets.resize(Self::BUCKETS, 0.0);
            for weight in weights {
                let bits = weight.to_bits();
                if level == 0 || bits >> (shift + 10) == prefix {
                    let bucket = if level == 0 { bits >> shift } else { bits >> shift & 0x3ff };
                    self.buckets[bucket as usize] += measure(*weight);
                }
            }
            let mut bucket = Self::BUCKETS - 1;
            while bucket > 0 && before + self.buckets[bucket] < enough {
                before += self.buckets[bucket];
                bucket -= 1;
            }
            prefix = prefix << 10 | bucket as u32;
        }
        let weight = f32::from_bits(prefix);
        let missing = (enough - before) / measure(weight);
        // At least one; where rounding leaves too little, all of them. Never more than fit a usize: it saturates.
        LastKept { weight, equals: missing.ceil().max(1.0) as usize }
    }
}

#[inline(always)]
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
#[inline(always)]
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
