//! What a caller is answered: the words that the stages of the pipeline share.

use std::collections::BTreeMap;

/// How many findings of the safety filter there were, by category.
pub(crate) type Findings = BTreeMap<String, u32>;

/// The generation began.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub(crate) request_id: String,
    pub(crate) model: String,
    pub(crate) prompt_tokens: u32,
    pub(crate) seed: u64,
    /// The prompt as the model was given it, if it was asked for.
    pub(crate) echo: Option<Echo>,
}

/// A prompt as the model was given it.
#[derive(Clone, Debug)]
pub(crate) struct Echo {
    pub(crate) text: String,
    /// Its tokens, if log-probabilities were asked for. The first, which nothing precedes, has none.
    pub(crate) tokens: Vec<Token>,
}

/// What a caller sees after [`Started`].
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Text that was checked and is final.
    Delta {
        /// Which of the answers it belongs to.
        index: u32,
        text: String,
        /// The tokens whose text became final with it, if log-probabilities were asked for.
        tokens: Vec<Token>,
    },
    /// The end of an answer; nothing follows of it.
    Finished(Finished),
}

impl Event {
    /// Which of the answers it belongs to.
    pub(crate) fn index(&self) -> u32 {
        match self {
            Self::Delta { index, .. } => *index,
            Self::Finished(finished) => finished.index,
        }
    }
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// Which of the answers.
    pub(crate) index: u32,
    pub(crate) reason: FinishReason,
    pub(crate) stop_string: Option<String>,
    pub(crate) usage: Usage,
    pub(crate) findings: Findings,
    /// Whether the filter refused the prompt (`true`) or ended the answer (`false`).
    pub(crate) blocked_prompt: Option<bool>,
    /// Whether it ended at its length because the tenant's quota had no more.
    pub(crate) quota_reached: bool,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FinishReason {
    Stop,
    Length,
    ContentFilter,
}

impl FinishReason {
    /// Its name in spans and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// What was consumed, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) completion: u32,
    pub(crate) cached_prompt: u32,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.prompt = self.prompt.saturating_add(more.prompt);
        self.completion = self.completion.saturating_add(more.completion);
        self.cached_prompt = self.cached_prompt.saturating_add(more.cached_prompt);
    }
}

/// A generated token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) id: u32,
    /// `None` unless log-probabilities were asked for.
    pub(crate) logprob: Option<f32>,
    /// The likeliest tokens at this position with their log-probabilities, likeliest first.
    pub(crate) top: Vec<(u32, f32)>,
}
