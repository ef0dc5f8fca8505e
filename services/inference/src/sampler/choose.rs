//! Greedy, full and truncated sampling.

use super::{
    SamplingParams,
    select::{Candidate, Selector},
    survey::Survey,
    weights::{Weights, exp},
};

/// Below this a temperature means greedy: the quotients would leave f32's range anyway.
const GREEDY_BELOW: f32 = 1e-5;

/// Up to so many of the likeliest are found by selection. Most cuts keep far fewer; the rest are made by weight.
const FEW: usize = 128;

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
    sums: Vec<f64>,
}

impl Scratch {
    #[cfg(all(test, feature = "torch"))]
    pub(super) fn on(vector: super::vector::Vector) -> Self {
        Self { weights: Weights::on(vector), ..Self::default() }
    }

    /// Chooses a token. `draw` is asked for a number in `[0, 1)` unless the choice is greedy.
    pub(super) fn token(
        &mut self,
        logits: &[f32],
        survey: &Survey,
        params: &SamplingParams,
        draw: impl FnOnce() -> f64,
    ) -> Result<u32, SamplingError> {
        if survey.highest() == f32::NEG_INFINITY {
            return Err(SamplingError::NothingPossible);
        }
        let chosen = if params.temperature < GREEDY_BELOW {
            survey.first_of_highest(logits).map(|index| index as u32)
        } else if (1..=FEW).contains(&params.top_k) {
            self.among_few(logits, survey, params, draw())
        } else {
            self.among_all(logits, survey, params, draw())
        };
        chosen.ok_or(SamplingError::NothingPossible)
    }

    /// Among a few likeliest tokens, which is where top-k cuts.
    fn among_few(
        &mut self,
        logits: &[f32],
        survey: &Survey,
        params: &SamplingParams,
        draw: f64,
    ) -> Option<u32> {
        let few = self.selector.top(logits, survey, params.top_k);
        sum_up(few, survey.highest(), params.temperature, &mut self.sums);
        pick(few, &self.sums, *self.sums.last()?, params, draw)
    }

    /// Among all tokens that top-k, top-p and min-p leave.
    fn among_all(
        &mut self,
        logits: &[f32],
        survey: &Survey,
        params: &SamplingParams,
        draw: f64,
    ) -> Option<u32> {
        self.weights.fill(logits, survey.highest(), params.temperature);
        if params.top_k > 0 {
            self.weights.keep_count(params.top_k);
        }
        if params.top_p < 1.0 {
            let total = self.weights.total();
            let few = self.selector.top(logits, survey, FEW);
            sum_up(few, survey.highest(), params.temperature, &mut self.sums);
            if self.sums.last().is_some_and(|sum| *sum >= f64::from(params.top_p) * total) {
                return pick(few, &self.sums, total, params, draw);
            }
            self.weights.keep_mass(f64::from(params.top_p) * total);
        }
        if params.min_p > 0.0 {
            // The likeliest token's weight is 1, so min-p is a floor for the weights.
            self.weights.keep_above(params.min_p);
        }
        self.weights.pick(draw * self.weights.total()).map(|index| index as u32)
    }
}

/// Running sums of the candidates' weights.
fn sum_up(candidates: &[Candidate], highest: f32, temperature: f32, sums: &mut Vec<f64>) {
    let mut sum = 0.0;
    sums.clear();
    sums.extend(candidates.iter().map(|candidate| {
        sum += f64::from(exp((candidate.logit - highest) / temperature));
        sum
    }));
}

/// One of the candidates, as far as top-p (of `total`) and min-p reach.
fn pick(
    candidates: &[Candidate],
    sums: &[f64],
    total: f64,
    params: &SamplingParams,
    draw: f64,
) -> Option<u32> {
    let mass = f64::from(params.top_p) * total;
    let nucleus = sums.partition_point(|sum| *sum < mass) + 1;
    let highest = candidates.first()?.logit;
    let weight = |candidate: &Candidate| exp((candidate.logit - highest) / params.temperature);
    let likely = candidates.partition_point(|candidate| weight(candidate) >= params.min_p);
    let kept = &sums[..nucleus.min(likely).clamp(1, sums.len())];
    let whole = *kept.last()?;
    // Rounding may carry the target to the very end, where tokens stand that add nothing.
    let last_possible = kept.partition_point(|sum| *sum < whole);
    let index = kept.partition_point(|sum| *sum <= draw * whole).min(last_possible);
    candidates.get(index).map(|candidate| candidate.id)
}
