//! What a request will cost, before anybody has counted it.

use super::config::Admission;

/// Bytes of a token before any was seen: what most tokenizers come to in English.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Weight of the newest request in the running means.
const NEWEST: f64 = 0.05;

/// How large a request is, as far as it can be seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) prompt: Extent,
    /// Tokens that an answer may have; `None` where it says nothing.
    pub(crate) max_tokens: Option<u32>,
    /// How many answers it asks for.
    pub(crate) answers: u32,
}

/// How long a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// So many bytes of text.
    Bytes(usize),
    /// So many tokens.
    Tokens(usize),
}

/// What was learned from requests before.
#[derive(Debug)]
pub(super) struct Expectation {
    bytes_per_token: f64,
    output_tokens: f64,
}

impl Expectation {
    pub(super) fn new(config: &Admission) -> Self {
        Self { bytes_per_token: BYTES_PER_TOKEN, output_tokens: f64::from(config.expected_output_tokens) }
    }

    /// The tokens of a prompt.
    pub(super) fn prompt(&self, size: Size) -> u64 {
        match size.prompt {
            Extent::Bytes(bytes) => (bytes as f64 / self.bytes_per_token).ceil() as u64,
            Extent::Tokens(tokens) => tokens as u64,
        }
    }

    /// The tokens of its answers: what answers came to, but no more than they may have.
    pub(super) fn output(&self, size: Size) -> u64 {
        let one = (self.output_tokens.ceil() as u64).min(size.max_tokens.unwrap_or(u32::MAX).into());
        one * u64::from(size.answers)
    }

    /// A prompt was counted.
    pub(super) fn counted(&mut self, size: Size, tokens: u64) {
        match size.prompt {
            Extent::Bytes(bytes) if bytes > 0 && tokens > 0 => {
                self.bytes_per_token += NEWEST * (bytes as f64 / tokens as f64 - self.bytes_per_token);
            }
            Extent::Bytes(_) | Extent::Tokens(_) => {}
        }
    }

    /// An answer ended by itself.
    pub(super) fn answered(&mut self, tokens: u32) {
        self.output_tokens += NEWEST * (f64::from(tokens) - self.output_tokens);
    }
}

#[cfg(test)]
mod tests {
    use weft_runtime::config::parse;

    use super::*;

    #[test]
    fn what_is_expected_follows_what_was_seen_and_never_exceeds_what_is_allowed() {
        let mut expectation = Expectation::new(&parse("expected_output_tokens = 100", &[]).unwrap());
        let size = |max_tokens| Size { prompt: Extent::Bytes(400), max_tokens, answers: 1 };
        assert_eq!((expectation.prompt(size(None)), expectation.output(size(None))), (100, 100));
        assert_eq!(expectation.output(size(Some(7))), 7);
        assert_eq!(expectation.output(Size { answers: 3, ..size(Some(7)) }), 21);
        assert_eq!(expectation.prompt(Size { prompt: Extent::Tokens(5), ..size(None) }), 5);
        for _ in 0..200 {
            expectation.counted(size(None), 200);
            expectation.answered(10);
        }
        assert_eq!((expectation.prompt(size(None)), expectation.output(size(Some(1_000)))), (200, 11));
    }
}
