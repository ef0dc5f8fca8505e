//! One seeded stream of random numbers a sequence.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

/// Words in a ChaCha block. Each position has a block of its own.
const WORDS_PER_BLOCK: u128 = 16;

/// Random numbers that are found by position, not by how many were drawn before.
#[derive(Debug)]
pub(super) struct Draws {
    stream: ChaCha8Rng,
}

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self { stream: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Goes on with another of the streams that the seed names; at first it is 0.
    pub(super) fn use_stream(&mut self, number: u64) {
        self.stream.set_stream(number);
    }

    /// The number that belongs to `position`, uniform in `[0, 1)`.
    pub(super) fn at(&mut self, position: usize) -> f64 {
        self.stream.set_word_pos(position as u128 * WORDS_PER_BLOCK);
        // The upper 53 bits fill an f64's mantissa exactly.
        (self.stream.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}
