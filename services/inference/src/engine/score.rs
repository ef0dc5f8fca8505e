//! How likely given tokens are: scores of whole sequences, and of the prompt of a generation.

use tokio::{sync::oneshot, time::Instant};

use super::{
    EngineHandle,
    handle::Pending,
    outbox::{Event, Outbox, PROMPT_PIECE},
    work::Answer,
};
use crate::{
    adapters::Lease,
    error::EngineError,
    metrics::Outcome,
    request::Inputs,
    sampler::{Choice, Logprobs, SamplingError},
    sequence::Goal,
};

/// How likely one token is.
pub(super) type Score = Result<Logprobs, SamplingError>;

/// The likelihoods of a sequence's tokens after the first, in the making.
#[derive(Debug)]
pub(super) struct Scoring {
    logprobs: Vec<f32>,
    /// Gone once it was used.
    reply: Option<oneshot::Sender<Result<Vec<f32>, EngineError>>>,
}

impl Scoring {
    pub(super) fn new(reply: oneshot::Sender<Result<Vec<f32>, EngineError>>) -> Self {
        Self { logprobs: Vec::new(), reply: Some(reply) }
    }

    /// Keeps those of the next tokens.
    pub(super) fn take(&mut self, scores: &mut [Score]) -> Result<(), SamplingError> {
        for score in scores {
            self.logprobs.push(score.as_ref().map_err(|error| *error)?.chosen);
        }
        Ok(())
    }

    /// Answers with all of them.
    pub(super) fn finish(&mut self) -> Outcome {
        let logprobs = std::mem::take(&mut self.logprobs);
        self.reply(Ok(logprobs));
        Outcome::Scored
    }

    /// Answers whether somebody still waited.
    pub(super) fn reply(&mut self, answer: Result<Vec<f32>, EngineError>) -> bool {
        self.reply.take().is_some_and(|reply| reply.send(answer).is_ok())
    }
}

/// How likely the tokens of a prompt are, in the making.
#[derive(Debug)]
pub(super) struct PromptScores {
    tokens: Vec<Choice>,
    /// Tokens that are done: the first, before which nothing stands, from the start.
    done: usize,
}

impl PromptScores {
    pub(super) fn of(prompt: &[u32]) -> Self {
        let tokens = prompt.iter().map(|token| Choice { token: *token, logprobs: None });
        Self { tokens: tokens.collect(), done: 1 }
    }

    /// Keeps those of the next tokens.
    pub(super) fn take(&mut self, scores: &mut [Score]) -> Result<(), SamplingError> {
        let next = self.tokens.get_mut(self.done..).unwrap_or_default();
        self.done += scores.len();
        for (token, score) in next.iter_mut().zip(scores) {
            // A score is read once: it is taken, not copied.
            token.logprobs = Some(std::mem::replace(score, Err(SamplingError::NotANumber))?);
        }
        Ok(())
    }

    /// Hands all out, in pieces.
    pub(super) fn tell(mut self, outbox: &Outbox) {
        while !self.tokens.is_empty() {
            let rest = self.tokens.split_off(self.tokens.len().min(PROMPT_PIECE));
            outbox.send(Ok(Event::Prompt(std::mem::replace(&mut self.tokens, rest))));
        }
    }
}

impl EngineHandle {
    /// For each input, the log-probability of each id after the first given those before it, under the model's own
    /// distribution. Dropping the future is cancelling.
    ///
    /// # Errors
    /// Too few places are free, the process is about to stop, or the first failure among the inputs.
    pub async fn score(
        &self,
        inputs: impl Into<Inputs>,
        adapter: Option<Lease>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let pending = self.submit_all(inputs.into(), deadline, |input, reply| Pending {
            input,
            goal: Goal::Scores,
            adapter: adapter.clone(),
            prompt_top: Some(0),
            answer: Answer::Scores(Scoring::new(reply)),
        })?;
        pending.all().await
    }
}
