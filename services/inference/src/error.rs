//! What can go wrong, and what a caller is told.

use std::time::Duration;

use tonic::{Code, Status};
use weft_runtime::{BoxError, status};

use crate::{
    adapters::AdapterError,
    constraint::{CompileError, GuideError},
    sampler::SamplingError,
};

/// Why the engine did not, or not wholly, do what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// No place is free.
    #[error("{held} of at most {capacity} requests are held already")]
    QueueFull {
        /// Requests that run or wait.
        held: usize,
        /// The most there may be.
        capacity: usize,
        /// When a place is likely to be free, by the pace of the last requests.
        retry_after: Duration,
    },
    /// The tenant has its share of the places.
    #[error("{held} requests of this tenant are held already, and it may have {share}")]
    ShareFull {
        /// Its requests that run or wait.
        held: usize,
        /// The most there may be.
        share: usize,
        /// When one of the places is likely to be free.
        retry_after: Duration,
    },
    /// The process is about to stop: it finishes what it has, and takes nothing new.
    #[error("this replica is draining")]
    Draining,
    /// The process stops now.
    #[error("this replica is stopping")]
    Stopping,
    /// The caller's time was over before the request was done.
    #[error("the deadline passed before the request was done")]
    Expired,
    /// The caller's time will be over before its first token can be there.
    #[error(
        "the deadline is {left:.1?} away, and a prompt of {prompt_tokens} tokens takes at least {needs:.1?} until its \
         first token, even if nothing else ran"
    )]
    Hopeless {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The least time until its first token, by what was measured.
        needs: Duration,
        /// Until the deadline.
        left: Duration,
    },
    /// The model could not compute the step.
    #[error("{0}")]
    Step(String),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The constraint cannot be followed further.
    #[error(transparent)]
    Guide(#[from] GuideError),
    /// The sum of the hidden states has no direction.
    #[error("the model gave hidden states that are not numbers, or all zero")]
    NoEmbedding,
    /// The engine broke while the request was in its batch.
    #[error("the engine panicked in a step that the request was part of")]
    Panicked,
    /// The engine is gone.
    #[error("the engine has stopped")]
    Gone,
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::QueueFull { retry_after, .. } => {
                status::unavailable("QUEUE_FULL", error.to_string(), Some(retry_after))
            }
            // The tenant's own doing: another replica would not be fairer to the others.
            EngineError::ShareFull { retry_after, .. } => {
                status::exhausted("TENANT_SHARE_FULL", error.to_string(), Some(retry_after))
            }
            EngineError::Draining => status::unavailable("DRAINING", error.to_string(), None),
            EngineError::Stopping => status::unavailable("STOPPING", error.to_string(), None),
            EngineError::Gone => status::unavailable("ENGINE_STOPPED", error.to_string(), None),
            EngineError::Expired | EngineError::Hopeless { .. } => {
                status::answer(Code::DeadlineExceeded, &error)
            }
            EngineError::Guide(GuideError::TooComplex { field } | GuideError::DeadEnd { field }) => {
                status::violation(field, &error.to_string())
            }
            EngineError::Guide(GuideError::NotFollowed) => {
                status::violation("resumption.token_ids", &error.to_string())
            }
            // A request that broke a step may break it on every replica: nothing that invites a retry.
            EngineError::Step(_)
            | EngineError::Sampling(_)
            | EngineError::Guide(GuideError::Broken(_))
            | EngineError::NoEmbedding
            | EngineError::Panicked => status::answer(Code::Internal, &error),
        }
    }
}

impl CompileError {
    /// What the caller of a constraint in this field is told.
    pub(crate) fn into_status(self, field: &str) -> Status {
        match self {
            Self::Unusable(words) => status::violation(field, &words),
            Self::TooSlow(_) => status::violation(field, &self.to_string()),
            Self::Vocabulary(_) => status::answer(Code::FailedPrecondition, &self),
            Self::Busy(_) => status::unavailable("CONSTRAINT_QUEUE_FULL", self.to_string(), None),
            Self::Panicked => status::answer(Code::Internal, &self),
        }
    }
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The model could not be loaded.
    #[error("the model could not be loaded")]
    Load(#[source] BoxError),
    /// This binary can load no model.
    #[error("this build holds no backend: it was built without the feature `torch`")]
    NoBackend,
    /// What the model recommends for sampling is out of range.
    #[error("the model's generation defaults are not usable: {0}")]
    Defaults(String),
    /// The cache could not hold a single sequence.
    #[error(
        "kv_cache.memory = {memory} bytes is too small: one block of {block_size} tokens takes {block_bytes} bytes, and at \
         least 2 are needed"
    )]
    CacheTooSmall {
        /// Bytes that the configuration gives.
        memory: u64,
        /// Tokens in a block.
        block_size: usize,
        /// Bytes that a block takes.
        block_bytes: u64,
    },
    /// Tokens cannot be guessed with this model.
    #[error(
        "speculation.max_tokens is {max_tokens}, but with this model it must be 0: its keys depend on the length of the \
         sequence (dynamic rotary embedding), which guesses would change"
    )]
    Speculation {
        /// What the configuration says.
        max_tokens: usize,
    },
    /// The cache's memory is not to be had.
    #[error("the KV cache could not be allocated")]
    Cache(#[source] BoxError),
    /// An adapter that the configuration names could not be loaded.
    #[error("the adapter `{id}` of adapters.preload could not be loaded")]
    Adapter {
        /// Its name.
        id: String,
        /// Why.
        #[source]
        source: AdapterError,
    },
    /// The first steps failed.
    #[error("the model was loaded but could not compute its first step: {0}")]
    WarmUp(String),
    /// The engine broke while it loaded.
    #[error("the engine panicked while it loaded the model")]
    Panicked,
    /// The engine's thread, or one that computes constraints, could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
}
