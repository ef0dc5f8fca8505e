//! One look at all logits: are they numbers, which is the highest, and where the high ones are.

use super::vector::{Loops, Vector};

/// Logits that are looked at together: what is found out about a chunk spares looking into it again.
const CHUNK: usize = 64;
/// Logits that are compared at once.
const LANES: usize = 16;

/// What one look at all logits gave.
#[derive(Debug, Default)]
pub(super) struct Survey {
    maxima: Vec<f32>,
    highest: f32,
    vector: Vector,
}

impl Survey {
    #[cfg(all(test, feature = "torch"))]
    pub(super) fn on(vector: Vector) -> Self {
        Self { vector, ..Self::default() }
    }

    /// Looks at all logits. Answers `false` if one is not a number, or is +inf.
    pub(super) fn take(&mut self, logits: &[f32]) -> bool {
        let mut usable = [1u32; LANES];
        self.maxima.clear();
        self.vector.run(Look { logits, maxima: &mut self.maxima, usable: &mut usable });
        self.highest = self.maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        usable == [1; LANES]
    }

    /// The highest logit.
    pub(super) fn highest(&self) -> f32 {
        self.highest
    }

    /// The highest logit of each chunk.
    pub(super) fn maxima(&self) -> &[f32] {
        &self.maxima
    }

    /// The lowest id that has the highest logit.
    pub(super) fn first_of_highest(&self, logits: &[f32]) -> Option<usize> {
        let chunk = self.maxima.iter().position(|maximum| *maximum == self.highest)?;
        let within = self.chunk(chunk, logits).position(|(_, logit)| logit == self.highest)?;
        Some(chunk * CHUNK + within)
    }

    /// The ids and logits of a chunk.
    pub(super) fn chunk<'a>(&self, chunk: usize, logits: &'a [f32]) -> impl Iterator<Item = (u32, f32)> + 'a {
        let start = chunk * CHUNK;
        let end = logits.len().min(start + CHUNK);
        logits[start..end].iter().enumerate().map(move |(at, logit)| ((start + at) as u32, *logit))
    }
}

/// The pass behind a survey.
struct Look<'a> {
    logits: &'a [f32],
    maxima: &'a mut Vec<f32>,
    usable: &'a mut [u32; LANES],
}

impl Loops for Look<'_> {
    #[inline(always)]
    fn run(self) {
        // By chunks of a known length: the compiler then keeps all lanes in registers.
        let (chunks, rest) = self.logits.as_chunks::<CHUNK>();
        self.maxima.reserve(chunks.len() + 1);
        for chunk in chunks {
            self.maxima.push(maximum(chunk, self.usable));
        }
        if !rest.is_empty() {
            self.maxima.push(maximum(rest, self.usable));
        }
    }
}

/// The largest of the values; notes with a 0 in `usable` if one is not a number or is +inf.
#[inline(always)]
fn maximum(values: &[f32], usable: &mut [u32; LANES]) -> f32 {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut look = |lane: usize, value: f32| {
        highest[lane] = if value > highest[lane] { value } else { highest[lane] };
        // False of what is not a number, too.
        usable[lane] &= u32::from(value < f32::INFINITY);
    };
    let (rows, rest) = values.as_chunks::<LANES>();
    for row in rows {
        (0..LANES).for_each(|lane| look(lane, row[lane]));
    }
    rest.iter().enumerate().for_each(|(lane, value)| look(lane, *value));
    highest.into_iter().fold(f32::NEG_INFINITY, f32::max)
}
