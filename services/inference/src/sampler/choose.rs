//! Greedy, full and truncated sampling.

use super::{
    SamplingParams,
    select::{Candidate, Selector},
    weights::{Weights, exp},
};

/// Below this a temperature means greedy: the quotients would leave f32's range anyway.
const GREEDY_BELOW: f32 = 1e-5;

/// How many candidates a search for the nucleus starts with, and by how much it grows: most nuclei are small.
const FIRST_PREFIX: usize = 64;
const PREFIX_GROWTH: usize = 8;

/// Why no token could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// The model's output is broken.
    #[error("the model gave a logit that is not a number")]
    NotANumber,
    /// Every logit is -inf.
    #[error("no token is possible: every logit is -inf")]
    NothingPossible,
}

/// Memory that is used again for every choice.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) weights: Weights,
    pub(super) selector: Selector,
    pub(super) candidates: Vec<Candidate>,
    sums: Vec<f64>,
}

impl Scratch {
    /// Chooses a token. `highest` is the highest of the logits; `draw` is asked for a number in `[0, 1)` unless the
    /// choice is greedy.
    pub(super) fn token(
        &mut self,
        logits: &[f32],
        highest: f32,
        params: &SamplingParams,
        draw: impl FnOnce() -> f64,
    ) -> Result<u32, SamplingError> {
        if highest == f32::NEG_INFINITY {
            return Err(SamplingError::NothingPossible);
        }
        let chosen = if params.temperature < GREEDY_BELOW {
            logits.iter().position(|logit| *logit == highest).map(|index| index as u32)
        } else if params.top_k == 0 && params.top_p >= 1.0 {
            self.among_all(logits, highest, params, draw())
        } else {
            self.among_likeliest(logits, highest, params, draw())
        };
        chosen.ok_or(SamplingError::NothingPossible)
    }

    /// Among every token that min-p leaves.
    fn among_all(&mut self, logits: &[f32], highest: f32, params: &SamplingParams, draw: f64) -> Option<u32> {
        // The likeliest token's weight is 1, so min-p is a floor for the weights.
        let total = self.weights.fill(logits, highest, params.temperature, params.min_p);
        self.weights.pick(draw * total).map(|index| index as u32)
    }

    /// Among the likeliest tokens, as far as top-k, top-p and min-p reach.
    fn among_likeliest(
        &mut self,
        logits: &[f32],
        highest: f32,
        params: &SamplingParams,
        draw: f64,
    ) -> Option<u32> {
        let within_k = if params.top_k == 0 { logits.len() } else { params.top_k.min(logits.len()) };
        let known_total = (params.top_k == 0 && params.top_p < 1.0)
            .then(|| self.weights.fill(logits, highest, params.temperature, 0.0));
        // With top-k the nucleus is one of the k likeliest, so all of them are needed for their sum.
        let mut count = if known_total.is_some() { FIRST_PREFIX.min(within_k) } else { within_k };
        loop {
            self.selector.top(logits, count, &mut self.candidates);
            self.sum_up(highest, params.temperature);
            let total = known_total.or(self.sums.last().copied())?;
            let reach = self.reach(params, total, highest);
            if reach < count || count == within_k {
                return self.pick_within(reach, draw);
            }
            count = within_k.min(count * PREFIX_GROWTH);
        }
    }

    /// Running sums of the candidates' weights.
    fn sum_up(&mut self, highest: f32, temperature: f32) {
        self.sums.clear();
        let mut sum = 0.0;
        for candidate in &self.candidates {
            sum += f64::from(exp((candidate.logit - highest) / temperature));
            self.sums.push(sum);
        }
    }

    /// How many of the candidates top-p and min-p keep; at least one.
    fn reach(&self, params: &SamplingParams, total: f64, highest: f32) -> usize {
        let mass = f64::from(params.top_p) * total;
        let nucleus = self.sums.partition_point(|sum| *sum < mass) + 1;
        let likely = self.candidates.partition_point(|candidate| {
            exp((candidate.logit - highest) / params.temperature) >= params.min_p
        });
        nucleus.min(likely).clamp(1, self.candidates.len().max(1))
    }

    fn pick_within(&self, reach: usize, draw: f64) -> Option<u32> {
        let sums = self.sums.get(..reach)?;
        let target = draw * sums.last()?;
        let last_possible = sums.partition_point(|sum| sum < sums.last().unwrap_or(&0.0));
        let index = sums.partition_point(|sum| *sum <= target).min(last_possible);
        self.candidates.get(index).map(|candidate| candidate.id)
    }
}
