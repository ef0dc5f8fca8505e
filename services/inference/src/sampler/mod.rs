//! From logits to a token.
//!
//! Map: `params` (how a request wants its tokens chosen), `edits` (bias, penalties, forbidden ids: changes to single
//! logits, undone afterwards), `mask` (which tokens a constraint allows), `survey` (one look at all logits), `select` (the
//! likeliest few without sorting the rest), `weights` (exponentials of all, and cuts through them), `vector` (this
//! machine's instructions for such passes), `draws` (one seeded stream a sequence), `choose`
//! (greedy, full and truncated sampling), `logprobs`.
//!
//! Rules:
//! - The order is: bias, repetition penalty, frequency and presence penalty, forbidden ids, mask, temperature, top-k,
//!   top-p, min-p. Among equal logits the lowest id comes first, everywhere.
//! - A mask wins: no bias brings back what it excludes, and ids are forbidden only as far as it allows others.
//! - Log-probabilities are those of the model's own logits, before any of that.
//! - What is drawn depends on the seed and on the token's position in its sequence, on nothing else: neither
//!   preemption nor company in the batch nor a resumption elsewhere changes it.
//! - A logit that is not a number (or is +inf) is an error of that sequence alone; -inf means "never".

mod choose;
mod draws;
mod edits;
mod logprobs;
mod mask;
mod params;
mod select;
mod survey;
mod vector;
mod weights;

#[cfg(test)]
mod tests;

pub use choose::SamplingError;
pub use logprobs::{Logprobs, Scorer};
pub use mask::Mask;
pub use params::{Defaults, SamplingParams, SamplingRequest};

use choose::Scratch;
use draws::Draws;
use edits::Edits;
use survey::Survey;

/// A token, and how likely it was where that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The token's id.
    pub token: u32,
    /// How likely it and the likeliest were under the model's own distribution.
    pub logprobs: Option<Logprobs>,
}

/// How one sequence has its tokens chosen: its parameters, its random stream, and what it has said so far.
#[derive(Debug)]
pub struct Chooser {
    params: SamplingParams,
    top_logprobs: Option<usize>,
    draws: Draws,
    said: edits::Said,
}

impl Chooser {
    /// For a sequence that starts from `prompt`. `top_logprobs` asks for log-probabilities, and for how many of the
    /// likeliest.
    pub fn new(params: SamplingParams, top_logprobs: Option<usize>, prompt: &[u32]) -> Self {
        let said = edits::Said::new(&params, prompt);
        let draws = Draws::new(params.seed);
        Self { params, top_logprobs, draws, said }
    }

    /// The same for the `index`-th of several continuations, whose random streams have nothing in common. The first has
    /// the stream of one that stands alone.
    #[must_use]
    pub fn of_continuation(mut self, index: usize) -> Self {
        self.draws.use_stream(index as u64);
        self
    }

    /// The same for a sequence that has said this already.
    #[must_use]
    pub fn behind(mut self, said: &[u32]) -> Self {
        said.iter().for_each(|token| self.said.note(*token));
        self
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.params.seed
    }
}

/// What one choice may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// Ids that are not chosen, each once.
    pub forbidden: &'a [u32],
    /// The ids that may be chosen, where not all may.
    pub mask: Option<&'a Mask>,
}

/// Chooses tokens. Holds only memory that is used again for every sequence.
#[derive(Debug, Default)]
pub struct Sampler {
    edits: Edits,
    /// Of the model's own logits.
    survey: Survey,
    /// Of the edited ones, where there are edits.
    edited: Survey,
    /// The logits as a mask leaves them.
    masked: Vec<f32>,
    scratch: Scratch,
}

impl Sampler {
    /// Chooses the token at `position` of a sequence and notes it with the chooser. The logits are the same again
    /// afterwards where log-probabilities are asked for, else unspecified.
    ///
    /// # Errors
    /// A logit is not a number, or no token is possible.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        chooser: &mut Chooser,
        allowed: Allowed<'_>,
        position: usize,
    ) -> Result<Choice, SamplingError> {
        if !self.survey.take(logits) {
            return Err(SamplingError::NotANumber);
        }
        let token = self.token(logits, chooser, allowed, position)?;
        let logprobs = chooser.top_logprobs.map(|top| {
            self.edits.undo(logits);
            logprobs::of(logits, &self.survey, token, top, &mut self.scratch)
        });
        chooser.said.note(token);
        Ok(Choice { token, logprobs })
    }

    /// One that uses these instructions.
    #[cfg(all(test, feature = "torch"))]
    fn on(vector: vector::Vector) -> Self {
        let scratch = Scratch::on(vector);
        Self { survey: Survey::on(vector), edited: Survey::on(vector), scratch, ..Self::default() }
    }

    fn token(
        &mut self,
        logits: &mut [f32],
        chooser: &mut Chooser,
        Allowed { forbidden, mask }: Allowed<'_>,
        position: usize,
    ) -> Result<u32, SamplingError> {
        let Chooser { params, draws, said, .. } = chooser;
        let draw = || draws.at(position);
        let Some(mask) = mask else {
            let survey = if self.edits.apply(logits, params, said, forbidden) {
                self.edited.take(logits);
                &self.edited
            } else {
                &self.survey
            };
            return self.scratch.token(logits, survey, params, draw);
        };
        let forbidden = if mask.has_other_than(forbidden) { forbidden } else { &[] };
        self.edits.apply(logits, params, said, forbidden);
        if let Some(only) = mask.only() {
            return Ok(only);
        }
        mask.apply(logits, &mut self.masked);
        self.edited.take(&self.masked);
        self.scratch.token(&self.masked, &self.edited, params, draw)
    }
}
