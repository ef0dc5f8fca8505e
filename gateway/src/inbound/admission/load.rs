//! How much something is: requests and tokens.

use std::ops::{Add, AddAssign, SubAssign};

/// Requests (one that asks for several answers counts as so many), and the tokens of their prompts and expected answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

impl Load {
    /// One request of so many tokens.
    #[cfg(test)]
    pub(super) fn of(tokens: u64) -> Self {
        Self { requests: 1, tokens }
    }

    /// What is left of it beside another.
    pub(super) fn beyond(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }

    /// This share of it; room for one request at least.
    pub(super) fn share(self, share: f64) -> Self {
        let of = |amount: u64| (amount as f64 * share) as u64;
        Self { requests: of(self.requests).max(1), tokens: of(self.tokens) }
    }
}

impl Add for Load {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens += other.tokens;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Self) {
        *self = self.beyond(other);
    }
}
