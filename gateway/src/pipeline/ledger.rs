//! Which token may be shown when.
//!
//! A token's id gives its text away, so a token is shown only when all of its text is, and with the piece in which that
//! came true. The safety filter says how much text it has released, and what it redacted, but not how long its
//! placeholders are; so once something is redacted, nobody can say how far the released text has come in the model's
//! own. From there on tokens wait for the end of the answer, when every redaction is known: then all are shown but those
//! that overlap one. Of an answer that is blocked, they are never shown.

use std::{collections::VecDeque, ops::Range};

use super::Placed;
use crate::answer::Token;

/// Tokens that wait for their text, in order.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    waiting: VecDeque<Placed>,
    /// Bytes that were released, placeholders included.
    released: u64,
    /// What was redacted, in bytes of the model's text.
    redactions: Vec<Range<u64>>,
}

impl Ledger {
    /// Tokens whose text went to the safety filter.
    pub(super) fn expect(&mut self, tokens: Vec<Placed>) {
        self.waiting.extend(tokens);
    }

    /// Something was redacted.
    pub(super) fn redact(&mut self, place: Range<u64>) {
        self.redactions.push(place);
    }

    /// So many bytes were released: the tokens that may be shown now.
    pub(super) fn release(&mut self, bytes: usize) -> Vec<Token> {
        self.released += bytes as u64;
        let intact = self.redactions.iter().map(|place| place.start).min().unwrap_or(u64::MAX);
        let seen = self.released.min(intact);
        let mut shown = Vec::new();
        while let Some(placed) = self.waiting.pop_front_if(|placed| placed.end <= seen) {
            shown.push(placed.token);
        }
        shown
    }

    /// The answer is over and its text ended at this byte: the rest of the tokens that may be shown.
    pub(super) fn close(&mut self, text_end: u64) -> Vec<Token> {
        let redactions = std::mem::take(&mut self.redactions);
        let hidden = |placed: &Placed| {
            placed.end > text_end
                || redactions.iter().any(|place| placed.start < place.end && placed.end > place.start)
        };
        self.waiting.drain(..).filter(|placed| !hidden(placed)).map(|placed| placed.token).collect()
    }
}
