//! How likely tokens were under the model's own distribution.

use super::{choose::Scratch, survey::Survey};

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// Of the likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// The log-softmax of `logits` at a token and at as many of the likeliest.
pub(super) fn of(logits: &[f32], survey: &Survey, token: u32, top: usize, scratch: &mut Scratch) -> Logprobs {
    scratch.weights.fill(logits, survey.highest(), 1.0);
    let total = scratch.weights.total().ln();
    let logprob = |logit: f32| (f64::from(logit - survey.highest()) - total) as f32;
    let likeliest = if top > 0 { scratch.selector.top(logits, survey, top) } else { &[] };
    Logprobs {
        chosen: logprob(logits[token as usize]),
        top: likeliest.iter().map(|candidate| (candidate.id, logprob(candidate.logit))).collect(),
    }
}
