//! OpenAI's words on the wire, as far as answers of several kinds share them.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Response, header};
use serde::Serialize;
use tonic::{Status, body::Body};

use super::edge::REQUEST_ID;
use crate::{
    answer::{self, Findings, FinishReason},
    request::Scope,
};

/// What every answer begins with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Of the answer.
    pub(super) id: String,
    /// What it is.
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: String,
}

/// A whole answer, or a part of it in a stream.
#[derive(Debug, Serialize)]
pub(super) struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

impl Head {
    /// `prefix` is OpenAI's for the kind of answer, such as `chatcmpl`.
    pub(super) fn new(prefix: &str, object: &'static str, scope: &Scope, model: String) -> Self {
        Self { id: format!("{prefix}-{}", scope.request_id), object, created: now(), model }
    }

    /// This with these choices.
    pub(super) fn with<C: Serialize>(&self, choices: C, usage: Option<Usage>) -> Envelope<'_, C> {
        let Self { id, object, created, model } = self;
        Envelope { id, object, created: *created, model, choices, usage }
    }
}

/// What was consumed, in tokens.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl From<answer::Usage> for Usage {
    fn from(usage: answer::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            total_tokens: usage.prompt.saturating_add(usage.completion),
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_prompt },
        }
    }
}

/// What our own contract says of an answer's end and OpenAI's does not.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Extras {
    /// The stop string that was met.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<String>,
    /// What the safety filter found, by category.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    safety_findings: Findings,
    /// Whether the filter refused the prompt, or ended the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_prompt: Option<bool>,
}

impl From<answer::Finished> for Extras {
    fn from(finished: answer::Finished) -> Self {
        let answer::Finished { stop_string, findings, blocked_prompt, .. } = finished;
        Self { stop_reason: stop_string, safety_findings: findings, blocked_prompt }
    }
}

/// Why an answer ended.
pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    reason.name()
}

/// A whole answer. Its bytes are all there, so it has ended well.
pub(super) fn json(answer: &impl Serialize) -> Result<Response<Body>, Status> {
    let json = serde_json::to_vec(answer).map_err(|error| weft_runtime::status::rescue(error.into()))?;
    let mut response = Response::new(Body::new(http_body_util::Full::new(Bytes::from(json))));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Status::ok("").add_header(response.headers_mut())?;
    Ok(response)
}

/// A response with the request's name in its headers.
pub(super) fn named(mut response: Response<Body>, scope: &Scope) -> Response<Body> {
    if let Ok(id) = header::HeaderValue::try_from(&scope.request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
