//! Which tokens may be chosen at all.

/// A set of token ids, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
    count: usize,
}

/// Ids of a word.
const BITS: usize = 32;

impl Mask {
    /// The ids whose bits are set: id `i` is bit `i % 32` of word `i / 32`.
    pub fn new(words: Vec<u32>) -> Self {
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Self { words, count }
    }

    /// How many ids it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether it has this id.
    pub fn has(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / BITS).copied().unwrap_or(0);
        word >> (id as usize % BITS) & 1 == 1
    }

    /// The id, where it has only one.
    pub(super) fn only(&self) -> Option<u32> {
        if self.count != 1 {
            return None;
        }
        let at = self.words.iter().position(|word| *word != 0)?;
        Some((at * BITS) as u32 + self.words[at].trailing_zeros())
    }

    /// Whether it has an id that is not among `ids`, each of which is there once.
    pub(super) fn has_other_than(&self, ids: &[u32]) -> bool {
        ids.iter().filter(|id| self.has(**id)).count() < self.count
    }

    /// The logits of its ids; of all others -inf.
    pub(super) fn apply(&self, logits: &[f32], masked: &mut Vec<f32>) {
        masked.clear();
        masked.reserve(logits.len());
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (chunk, word) in logits.chunks(BITS).zip(words) {
            match word {
                0 => masked.extend(chunk.iter().map(|_| f32::NEG_INFINITY)),
                u32::MAX => masked.extend_from_slice(chunk),
                _ => masked.extend(
                    chunk
                        .iter()
                        .enumerate()
                        .map(|(bit, logit)| if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY }),
                ),
            }
        }
    }
}
