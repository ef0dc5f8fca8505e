//! How likely tokens were under the model's own distribution.

use super::{SamplingError, choose::Scratch, survey::Survey};

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// Of the likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Says how likely given tokens are. Holds only memory that is used again.
#[derive(Debug, Default)]
pub struct Scorer {
    survey: Survey,
    scratch: Scratch,
}

impl Scorer {
    /// How likely `token`, which is below the number of `logits`, and the `top` likeliest are.
    ///
    /// # Errors
    /// A logit is not a number, or no token is possible.
    pub fn score(&mut self, logits: &[f32], token: u32, top: usize) -> Result<Logprobs, SamplingError> {
        if !self.survey.take(logits) {
            return Err(SamplingError::NotANumber);
        }
        if self.survey.highest() == f32::NEG_INFINITY {
            return Err(SamplingError::NothingPossible);
        }
        Ok(of(logits, &self.survey, token, top, &mut self.scratch))
    }
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
