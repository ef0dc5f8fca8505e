//! Which token may be shown when.
//!
//! A token's id gives its text away, so a token is shown only when all of its text is, and with the piece in which that
//! came true. The safety filter says how much text it has released, and what it redacted, but not how long its
//! placeholders are; so once something is redacted, nobody can say how far the released text has come in the model's
//! own. From there on tokens wait for the end of the answer, when every redaction is known: then all are shown but those
//! that overlap one, or may (see [`Placed`]). Of what is blocked, no token is shown.
//!
//! A stop string keeps no secret: the token in which it begins is shown, those after it are not.

use std::{collections::VecDeque, ops::Range};

use super::Placed;
use crate::{
    answer::Token,
    outbound::safety::{Action, Finding},
};

/// Findings in one answer up to which tokens are shown. A filter need not list more than so many, and one that it does
/// not list could be a redaction.
pub(super) const MOST_FINDINGS: usize = 100;

/// Tokens that wait for their text, in order.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    waiting: VecDeque<Placed>,
    /// Bytes that were released, placeholders included.
    released: u64,
    /// What was redacted, in bytes of the model's text.
    redactions: Vec<Range<u64>>,
    findings: usize,
}

impl Ledger {
    /// Tokens whose text went to the safety filter.
    pub(super) fn expect(&mut self, tokens: Vec<Placed>) {
        self.waiting.extend(tokens);
    }

    /// The filter found something in the text.
    pub(super) fn find(&mut self, finding: &Finding) {
        self.findings += 1;
        if self.findings > MOST_FINDINGS {
            self.redactions.clear();
            self.redactions.push(0..u64::MAX);
        } else if finding.action == Action::Redact {
            self.redactions.push(finding.start..finding.end);
        }
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

    /// The text was cut off at this byte, by a stop string.
    pub(super) fn cut(&mut self, text_end: u64) {
        self.waiting.retain(|placed| placed.start < text_end);
    }

    /// All of the text was released or redacted: the rest of the tokens that may be shown.
    pub(super) fn close(&mut self) -> Vec<Token> {
        let Self { waiting, redactions, .. } = std::mem::take(self);
        let redacted = |placed: &Placed| {
            redactions.iter().any(|place| placed.start < place.end && placed.end > place.start)
        };
        waiting.into_iter().filter(|placed| !redacted(placed)).map(|placed| placed.token).collect()
    }
}
