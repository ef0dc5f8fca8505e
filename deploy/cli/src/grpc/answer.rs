//! An answer in text, as it comes: Chat and Complete of the gateway.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _};
use tonic::{service::interceptor::InterceptedService, transport::Channel};
use weft_proto::{
    common::v1::{ChatMessage, Constraint, FinishReason, Role, constraint::Form},
    gateway::v1::{
        ChatRequest, CompleteRequest, Finished, GenerationOptions, chat_response, complete_response,
        gateway_service_client::GatewayServiceClient,
    },
};

use super::{Call, Generation, MAX_MESSAGE_BYTES, Refusal, key::ApiKey};

/// Who says something in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// Instructions for the model.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Who speaks.
    pub(crate) speaker: Speaker,
    /// What is said.
    pub(crate) text: String,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    /// An answer to a conversation.
    Chat(Vec<Turn>),
    /// The continuation of a text.
    Complete(String),
}

/// A piece of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// The answer begins.
    Started {
        /// The model that answers.
        model: String,
    },
    /// The next text; never empty.
    Text(String),
    /// The end.
    Finished(Ending),
}

/// How an answer ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    /// Why, in one or two words.
    pub(crate) reason: &'static str,
    /// Whether the filter ended it for what was asked, not for what was answered.
    pub(crate) blocked_prompt: bool,
    /// What the filter found, by category.
    pub(crate) findings: BTreeMap<String, u32>,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: u32,
    /// Tokens generated.
    pub(crate) completion_tokens: u32,
}

/// A client of the gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    client: GatewayServiceClient<InterceptedService<Channel, ApiKey>>,
    model: String,
}

impl Gateway {
    /// Asks `model`, or the only one that is served if it is empty.
    pub(crate) fn new(channel: Channel, model: String) -> Self {
        let client = GatewayServiceClient::with_interceptor(channel, ApiKey::from_env())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, model }
    }

    /// Asks, and gives the answer as it comes. Dropping the stream is cancelling.
    ///
    /// # Errors
    /// Whatever the gateway refuses, before or within the answer.
    pub(crate) async fn ask(
        &self,
        question: Question,
        generation: &Generation,
        call: Call,
    ) -> Result<impl Stream<Item = Result<Piece, Refusal>> + Unpin + use<>, Refusal> {
        let (mut client, model, options) =
            (self.client.clone(), self.model.clone(), Some(options(generation)));
        let pieces = match question {
            Question::Chat(turns) => {
                let messages = turns.into_iter().map(message).collect();
                let request = ChatRequest { model, messages, tools: Vec::new(), options, tool_choice: None };
                let stream = client.chat(call.request(request)).await?.into_inner();
                stream.map(|item| Ok(item?.event.and_then(from_chat))).boxed()
            }
            Question::Complete(prompt) => {
                let request = CompleteRequest { model, prompt, options, ..CompleteRequest::default() };
                let stream = client.complete(call.request(request)).await?.into_inner();
                stream.map(|item| Ok(item?.event.and_then(from_complete))).boxed()
            }
        };
        Ok(pieces.filter_map(|item: Result<Option<Piece>, Refusal>| async { item.transpose() }).boxed())
    }
}

fn options(generation: &Generation) -> GenerationOptions {
    GenerationOptions {
        sampling: Some(generation.sampling()),
        stop: Some(generation.conditions()),
        stop_strings: generation.stop.clone(),
        constraint: generation
            .json_schema
            .clone()
            .map(|text| Constraint { form: Some(Form::JsonSchema(text)) }),
        ..GenerationOptions::default()
    }
}

fn message(turn: Turn) -> ChatMessage {
    let role = match turn.speaker {
        Speaker::System => Role::System,
        Speaker::User => Role::User,
        Speaker::Assistant => Role::Assistant,
    };
    ChatMessage { role: role.into(), content: turn.text, ..ChatMessage::default() }
}

/// Chat and Complete stream the same events in two types.
fn from_chat(event: chat_response::Event) -> Option<Piece> {
    match event {
        chat_response::Event::Started(started) => Some(Piece::Started { model: started.model }),
        chat_response::Event::Delta(delta) => text(delta.text),
        chat_response::Event::Finished(finished) => Some(ending(finished)),
    }
}

fn from_complete(event: complete_response::Event) -> Option<Piece> {
    match event {
        complete_response::Event::Started(started) => Some(Piece::Started { model: started.model }),
        complete_response::Event::Delta(delta) => text(delta.text),
        complete_response::Event::Finished(finished) => Some(ending(finished)),
    }
}

fn text(text: String) -> Option<Piece> {
    (!text.is_empty()).then_some(Piece::Text(text))
}

fn ending(finished: Finished) -> Piece {
    let usage = finished.usage.unwrap_or_default();
    Piece::Finished(Ending {
        reason: reason(finished.reason()),
        blocked_prompt: finished.blocked_prompt.unwrap_or(false),
        findings: finished.safety_findings.into_iter().collect(),
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
    })
}

pub(super) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content filter",
        FinishReason::Unspecified => "unspecified",
    }
}
