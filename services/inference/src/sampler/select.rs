//! The likeliest k without sorting the rest.

use std::cmp::Ordering;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) id: u32,
}

/// Logits whose maximum is kept, so that a search skips most of them.
const CHUNK: usize = 64;

/// Finds the likeliest tokens. Holds memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Selector {
    maxima: Vec<f32>,
    sorted_maxima: Vec<f32>,
}

impl Selector {
    /// Puts the `count` likeliest tokens into `found`, likeliest first, of equals the lowest id first.
    ///
    /// At least `count` chunks have a maximum of at least the `count`-th largest maximum, so no token below it is
    /// among the likeliest `count`: only chunks that reach it are looked into.
    pub(super) fn top(&mut self, logits: &[f32], count: usize, found: &mut Vec<Candidate>) {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(CHUNK).map(maximum));
        let floor = self.floor(count);
        found.clear();
        for (chunk, _) in self.maxima.iter().enumerate().filter(|(_, maximum)| **maximum >= floor) {
            let start = chunk * CHUNK;
            let end = logits.len().min(start + CHUNK);
            let candidates = logits[start..end].iter().enumerate().filter(|(_, logit)| **logit >= floor);
            found.extend(candidates.map(|(at, logit)| Candidate { logit: *logit, id: (start + at) as u32 }));
        }
        if count < found.len() {
            found.select_nth_unstable_by(count, order);
            found.truncate(count);
        }
        found.sort_unstable_by(order);
    }

    /// The `count`-th largest maximum, or -inf where there are fewer.
    fn floor(&mut self, count: usize) -> f32 {
        if count == 0 || count > self.maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.sorted_maxima.clone_from(&self.maxima);
        let (_, floor, _) = self.sorted_maxima.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        *floor
    }
}

/// Likeliest first, of equals the lowest id first.
fn order(one: &Candidate, other: &Candidate) -> Ordering {
    // `partial_cmp`, not `total_cmp`: 0 and -0 are equals. Nothing here is not a number.
    other.logit.partial_cmp(&one.logit).unwrap_or(Ordering::Equal).then(one.id.cmp(&other.id))
}

fn maximum(values: &[f32]) -> f32 {
    values.iter().fold(f32::NEG_INFINITY, |most, value| if *value > most { *value } else { most })
}
