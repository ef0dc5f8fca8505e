//! Changes to single logits: bias, penalties, forbidden ids.

use std::collections::HashMap;

use super::SamplingParams;

/// What a sequence has said, as far as its penalties need to know.
#[derive(Debug)]
pub(super) struct Said {
    /// How often each token was generated; a token of the prompt that was not is here with 0, where repetition is
    /// penalised. Empty where nothing is penalised.
    counts: HashMap<u32, u32>,
    watched: bool,
}

impl Said {
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let repetition = params.repetition_penalty != 1.0;
        let prompt = if repetition { prompt } else { &[] };
        let watched = repetition || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
        Self { counts: prompt.iter().map(|id| (*id, 0)).collect(), watched }
    }

    /// Notes a generated token.
    pub(super) fn note(&mut self, token: u32) {
        if self.watched {
            *self.counts.entry(token).or_default() += 1;
        }
    }
}

/// Edits logits in place, and can take that back.
#[derive(Debug, Default)]
pub(super) struct Edits {
    undo: Vec<(usize, f32)>,
}

impl Edits {
    /// Applies what the parameters ask for. Answers whether anything was changed.
    pub(super) fn apply(
        &mut self,
        logits: &mut [f32],
        params: &SamplingParams,
        said: &Said,
        forbidden: &[u32],
    ) -> bool {
        self.undo.clear();
        for (id, bias) in &params.logit_bias {
            self.edit(logits, *id, |logit| logit + bias);
        }
        for (id, count) in &said.counts {
            self.edit(logits, *id, |logit| penalised(logit, params, *count));
        }
        for id in forbidden {
            self.edit(logits, *id, |_| f32::NEG_INFINITY);
        }
        !self.undo.is_empty()
    }

    /// Puts back every logit that the last `apply` changed.
    pub(super) fn undo(&mut self, logits: &mut [f32]) {
        // Backwards: an id may have been edited twice.
        for (index, logit) in self.undo.drain(..).rev() {
            logits[index] = logit;
        }
    }

    fn edit(&mut self, logits: &mut [f32], id: u32, change: impl FnOnce(f32) -> f32) {
        if let Some(logit) = logits.get_mut(id as usize) {
            self.undo.push((id as usize, *logit));
            *logit = change(*logit);
        }
    }
}

/// A logit of a token that was said `count` times, after the penalties.
fn penalised(logit: f32, params: &SamplingParams, count: u32) -> f32 {
    let repetition = params.repetition_penalty;
    let logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
    let presence = if count > 0 { params.presence_penalty } else { 0.0 };
    // A tiny repetition penalty would carry the quotient to infinity.
    (logit - params.frequency_penalty * count as f32 - presence).min(f32::MAX)
}
