//! What a policy does about text, and what it says about it.

use std::sync::Arc;

/// What is done about a finding, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It is not even looked for.
    Allow,
    /// It is reported; the text goes on unchanged.
    Flag,
    /// A placeholder takes its place.
    Redact,
    /// The text ends before it.
    Block,
}

impl Action {
    /// Each by the word that policy files use for it.
    pub const WORDS: [(&'static str, Self); 4] =
        [("allow", Self::Allow), ("flag", Self::Flag), ("redact", Self::Redact), ("block", Self::Block)];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        Self::WORDS[self as usize].0
    }
}

/// Which way a text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the model.
    Prompt,
    /// From the model.
    Completion,
}

impl Direction {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Completion => "completion",
        }
    }
}

/// A rule as findings name it.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// What kind of thing, such as `pii.email`.
    pub category: String,
    /// Which detector or denial of the policy, such as `phone_e164`.
    pub name: String,
    /// What is done about it.
    pub action: Action,
}

/// Something that was found. Carries no text, so that it can be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it starts, in bytes of the whole original text.
    pub start: usize,
    /// Where it ends, in bytes of the whole original text.
    pub end: usize,
    /// The rule that found it.
    pub rule: Arc<Rule>,
}

/// What one piece of text led to; for a text in one piece, the whole outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Text that every detector has finished with, redacted.
    pub released: String,
    /// Findings that have become final, in order of their start.
    pub findings: Vec<Finding>,
    /// The text ends here; nothing after this is released.
    pub is_blocked: bool,
}

impl Verdict {
    /// The strictest action of all findings.
    pub fn action(&self) -> Action {
        self.findings.iter().map(|finding| finding.rule.action).max().unwrap_or(Action::Allow)
    }

    /// Adds what the next piece led to.
    pub fn append(&mut self, next: Self) {
        self.released.push_str(&next.released);
        self.findings.extend(next.findings);
        self.is_blocked |= next.is_blocked;
    }
}
