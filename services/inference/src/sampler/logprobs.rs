//! How likely tokens were under the model's own distribution.

use super::choose::Scratch;

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// Of the likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// The log-softmax of `logits`, of which `highest` is the highest, at `token` and at the `top` likeliest.
pub(super) fn of(logits: &[f32], highest: f32, token: u32, top: usize, scratch: &mut Scratch) -> Logprobs {
    let total = scratch.weights.fill(logits, highest, 1.0, 0.0);
    let logprob = |logit: f32| (f64::from(logit - highest) - total.ln()) as f32;
    scratch.candidates.clear();
    if top > 0 {
        scratch.selector.top(logits, top, &mut scratch.candidates);
    }
    Logprobs {
        chosen: logprob(logits[token as usize]),
        top: scratch.candidates.iter().map(|candidate| (candidate.id, logprob(candidate.logit))).collect(),
    }
}
