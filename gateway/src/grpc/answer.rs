//! Our own words on the wire.

use weft_proto::{common::v1 as common, gateway::v1 as wire};

use crate::{
    answer::{Event, FinishReason, Finished, Started, Token, Usage},
    models::Served,
    pipeline::Embedded,
};

pub(super) fn chat_started(started: Started) -> wire::ChatResponse {
    wire::ChatResponse { event: Some(wire::chat_response::Event::Started(wire_started(started))) }
}

pub(super) fn chat_event(event: Event) -> wire::ChatResponse {
    use wire::chat_response::Event as Wire;
    let event = match event {
        Event::Delta { index, text, tokens } => Wire::Delta(wire_delta(index, text, tokens)),
        Event::Finished(finished) => Wire::Finished(wire_finished(finished)),
    };
    wire::ChatResponse { event: Some(event) }
}

pub(super) fn complete_started(started: Started) -> wire::CompleteResponse {
    wire::CompleteResponse { event: Some(wire::complete_response::Event::Started(wire_started(started))) }
}

pub(super) fn complete_event(event: Event) -> wire::CompleteResponse {
    use wire::complete_response::Event as Wire;
    let event = match event {
        Event::Delta { index, text, tokens } => Wire::Delta(wire_delta(index, text, tokens)),
        Event::Finished(finished) => Wire::Finished(wire_finished(finished)),
    };
    wire::CompleteResponse { event: Some(event) }
}

pub(super) fn embedded(embedded: Embedded) -> wire::EmbedResponse {
    let embeddings = embedded.vectors.into_iter().map(|values| wire::Embedding { values }).collect();
    wire::EmbedResponse { embeddings, usage: Some(wire_usage(embedded.usage)) }
}

pub(super) fn model(served: &Served) -> wire::Model {
    let model = &served.model;
    wire::Model {
        id: model.id.clone(),
        architecture: model.architecture.clone(),
        context_length: model.context_length,
        dtype: model.dtype.clone(),
        device: model.device.clone(),
        chat: served.chat,
        parameters: model.parameters,
    }
}

fn wire_started(started: Started) -> wire::Started {
    let Started { request_id, model, prompt_tokens, seed, echo: _ } = started;
    wire::Started { request_id, model, prompt_tokens, seed }
}

fn wire_delta(index: u32, text: String, tokens: Vec<Token>) -> wire::TextDelta {
    wire::TextDelta { index, text, tokens: tokens.into_iter().filter_map(wire_token).collect() }
}

/// A token without a log-probability has nothing to say; it travels only where log-probabilities were asked for.
fn wire_token(token: Token) -> Option<wire::TokenInfo> {
    let likely = |(id, logprob)| wire::TokenLogprob { id, logprob };
    let top_logprobs = token.top.into_iter().map(likely).collect();
    Some(wire::TokenInfo { id: token.id, logprob: token.logprob?, top_logprobs })
}

fn wire_finished(finished: Finished) -> wire::Finished {
    let reason = match finished.reason {
        FinishReason::Stop => common::FinishReason::Stop,
        FinishReason::Length => common::FinishReason::Length,
        FinishReason::ContentFilter => common::FinishReason::ContentFilter,
    };
    wire::Finished {
        index: finished.index,
        reason: reason.into(),
        stop_string: finished.stop_string,
        usage: Some(wire_usage(finished.usage)),
        safety_findings: finished.findings.into_iter().collect(),
        blocked_prompt: finished.blocked_prompt,
        quota_reached: finished.quota_reached,
    }
}

fn wire_usage(usage: Usage) -> common::Usage {
    common::Usage {
        prompt_tokens: usage.prompt,
        completion_tokens: usage.completion,
        cached_prompt_tokens: usage.cached_prompt,
    }
}
