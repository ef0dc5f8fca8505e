//! The door to the services: the only module that names wire types.
//!
//! Map: `connect` (channels), `key` (who asks), `adapters` (of inference), `answer` (Chat and Complete: a text as it comes),
//! `ids` (Generate: token ids as they come), `info` (what services say of themselves), `text` (the tokenizer, for prompts of an
//! exact length), `refusal` (errors with
//! their `google.rpc` details).

pub(crate) mod adapters;
pub(crate) mod answer;
pub(crate) mod connect;
pub(crate) mod ids;
pub(crate) mod info;
mod key;
pub(crate) mod refusal;
pub(crate) mod text;

use std::time::Duration;

use tonic::{Request, metadata::MetadataValue};
use weft_proto::common::v1::{SamplingParams, StopConditions};

use crate::trace_context::TraceContext;

pub(crate) use refusal::Refusal;

/// The largest message that is taken from a service.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How tokens are chosen and when to stop. What is unset is left to the services.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Generation {
    /// 0 is greedy.
    pub(crate) temperature: Option<f32>,
    /// Keeps the smallest set of tokens whose probability reaches this.
    pub(crate) top_p: Option<f32>,
    /// Makes sampling repeatable.
    pub(crate) seed: Option<u64>,
    /// At most this many new tokens.
    pub(crate) max_tokens: Option<u32>,
    /// Go on past the model's end tokens.
    pub(crate) ignore_eos: bool,
    /// Texts that end the generation.
    pub(crate) stop: Vec<String>,
    /// The JSON schema that the answer holds to.
    pub(crate) json_schema: Option<String>,
}

impl Generation {
    fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
            ..SamplingParams::default()
        }
    }

    fn conditions(&self) -> StopConditions {
        StopConditions {
            max_tokens: self.max_tokens,
            ignore_eos: self.ignore_eos,
            ..StopConditions::default()
        }
    }
}

/// How a call is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// The trace that it belongs to.
    pub(crate) trace: Option<TraceContext>,
    /// How long the whole answer may take.
    pub(crate) timeout: Option<Duration>,
}

impl Call {
    /// A call that should be answered at once.
    pub(crate) fn within(timeout: Duration) -> Self {
        Self { trace: None, timeout: Some(timeout) }
    }

    fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        let header = self.trace.and_then(|trace| MetadataValue::try_from(trace.to_string()).ok());
        if let Some(header) = header {
            request.metadata_mut().insert("traceparent", header);
        }
        request
    }
}
