//! When a generation ends.

/// The rules by which a generation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRules {
    max_tokens: usize,
    min_tokens: usize,
    ending: Vec<u32>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This token ends it.
    Stop(u32),
    /// As many tokens as were asked for.
    Length,
    /// What its constraint asks for is complete.
    Complete,
}

impl StopRules {
    /// Ends at any id of `ending`, but not before `min_tokens`, and at the latest after `max_tokens` (at least 1).
    pub fn new(max_tokens: usize, min_tokens: usize, mut ending: Vec<u32>) -> Self {
        ending.sort_unstable();
        ending.dedup();
        Self { max_tokens, min_tokens, ending }
    }

    /// The most tokens that it lets be generated.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Whether `token` is one that ends it, sooner or later.
    pub fn is_end(&self, token: u32) -> bool {
        self.ending.binary_search(&token).is_ok()
    }

    /// Ids that may not be chosen as the next token, `generated` being there: an end that comes too early.
    pub fn forbidden(&self, generated: usize) -> &[u32] {
        if generated < self.min_tokens { &self.ending } else { &[] }
    }

    /// Whether the generation ends with `token`, the `generated`-th of it.
    pub fn after(&self, token: u32, generated: usize) -> Option<Ending> {
        if generated >= self.min_tokens && self.ending.binary_search(&token).is_ok() {
            return Some(Ending::Stop(token));
        }
        (generated >= self.max_tokens).then_some(Ending::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_token_ends_it_and_outranks_the_length() {
        let rules = StopRules::new(3, 0, vec![9, 7]);
        assert_eq!(rules.after(1, 1), None);
        assert_eq!(rules.after(7, 1), Some(Ending::Stop(7)));
        assert_eq!(rules.after(9, 3), Some(Ending::Stop(9)));
        assert_eq!(rules.after(1, 3), Some(Ending::Length));
    }

    #[test]
    fn an_end_token_is_forbidden_until_the_least_length_is_reached() {
        let rules = StopRules::new(10, 2, vec![7]);
        assert_eq!(rules.forbidden(0), &[7]);
        assert_eq!(rules.forbidden(1), &[7]);
        assert_eq!(rules.forbidden(2), &[] as &[u32]);
        assert_eq!(rules.after(7, 2), Some(Ending::Stop(7)));
    }
}
