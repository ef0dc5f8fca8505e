//! The likeliest few without sorting the rest.

use std::cmp::Ordering;

use super::survey::Survey;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) id: u32,
}

/// Finds the likeliest tokens. Holds memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Selector {
    maxima: Vec<f32>,
    found: Vec<Candidate>,
}

impl Selector {
    /// The `count` likeliest tokens, likeliest first, of equals the lowest id first.
    ///
    /// At least `count` chunks have a maximum of at least the `count`-th largest maximum, so no token below it is
    /// among the likeliest `count`: only chunks that reach it are looked into.
    pub(super) fn top(&mut self, logits: &[f32], survey: &Survey, count: usize) -> &[Candidate] {
        let floor = self.floor(survey.maxima(), count);
        self.found.clear();
        for (chunk, _) in survey.maxima().iter().enumerate().filter(|(_, maximum)| **maximum >= floor) {
            let high = survey.chunk(chunk, logits).filter(|(_, logit)| *logit >= floor);
            self.found.extend(high.map(|(id, logit)| Candidate { logit, id }));
        }
        if count < self.found.len() {
            self.found.select_nth_unstable_by(count, order);
            self.found.truncate(count);
        }
        self.found.sort_unstable_by(order);
        &self.found
    }

    /// The `count`-th largest maximum, or -inf where there are fewer.
    fn floor(&mut self, maxima: &[f32], count: usize) -> f32 {
        if count == 0 || count > maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.maxima.clear();
        self.maxima.extend_from_slice(maxima);
        let (_, floor, _) = self.maxima.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        *floor
    }
}

/// Likeliest first, of equals the lowest id first.
fn order(one: &Candidate, other: &Candidate) -> Ordering {
    // `partial_cmp`, not `total_cmp`: 0 and -0 are equals. Nothing here is not a number.
    other.logit.partial_cmp(&one.logit).unwrap_or(Ordering::Equal).then(one.id.cmp(&other.id))
}
