//! The tokenizer: text to ids, and ids to text as they come.

use std::sync::Arc;

use futures::StreamExt as _;
use weft_proto::{
    common::v1 as common,
    tokenizer::v1::{
        DecodeRequest, DecodeStreamRequest, DecodeStreamResponse, EncodeChatRequest, EncodeRequest,
        GetTokenizerInfoRequest, SpellRequest, tokenizer_service_client::TokenizerServiceClient,
    },
};
use weft_runtime::{Deadline, client::Replica};

use super::{
    Route, attempt,
    endpoint::Endpoint,
    exchange::{Elsewhere, Exchange},
    failure,
    hedge::Hedge,
    request,
    resume::Resume,
    retry::Retry,
};
use crate::{
    error::{Error, Failure, Peer},
    request::{Conversation, Message, Role, Tool},
};

/// Calls the tokenizer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    client: TokenizerServiceClient<Endpoint>,
    retry: Arc<Retry>,
    hedge: Arc<Hedge>,
    resume: Arc<Resume>,
}

/// What the tokenizer has loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    /// SHA-256 of its `tokenizer.json`.
    pub(crate) fingerprint: String,
    /// Ids run from 0 to one less than this.
    pub(crate) size: u32,
    pub(crate) has_chat_template: bool,
}

/// Ids to text, as they come.
pub(crate) type Decoding = Exchange<Vec<u32>, String>;

impl Tokenizer {
    pub(super) fn new(route: Route) -> Self {
        let client = TokenizerServiceClient::new(route.endpoint);
        Self {
            client: client.max_decoding_message_size(route.max_message_bytes),
            retry: route.retry,
            hedge: route.hedge,
            resume: route.resume,
        }
    }

    /// Text to ids. `field` is the field of our own API that the text came from.
    pub(crate) async fn encode(
        &self,
        text: &str,
        add_special_tokens: Option<bool>,
        field: &str,
        deadline: Option<Deadline>,
    ) -> Result<Vec<u32>, Failure> {
        let message = EncodeRequest { text: text.to_owned(), add_special_tokens };
        let call = |tried| {
            let (mut client, request) = (self.client.clone(), attempt(message.clone(), tried, deadline));
            async move { client.encode(request).await }
        };
        match self.retry.run_hedged(&self.hedge, deadline, call).await {
            Ok(response) => Ok(response.into_inner().token_ids),
            Err(status) => Err(failure(Peer::Tokenizer, status, |theirs| match theirs {
                "text" => Some(field.to_owned()),
                _ => None,
            })),
        }
    }

    /// A conversation to ids, through the model's chat template. Its fields have the same names in our own API.
    pub(crate) async fn encode_chat(
        &self,
        conversation: &Conversation,
        deadline: Option<Deadline>,
    ) -> Result<Vec<u32>, Failure> {
        let message = EncodeChatRequest {
            messages: conversation.messages.iter().map(wire_message).collect(),
            tools: conversation.tools.iter().map(wire_tool).collect(),
            add_generation_prompt: None,
        };
        let call = |tried| {
            let (mut client, request) = (self.client.clone(), attempt(message.clone(), tried, deadline));
            async move { client.encode_chat(request).await }
        };
        match self.retry.run_hedged(&self.hedge, deadline, call).await {
            Ok(response) => Ok(response.into_inner().token_ids),
            Err(status) => Err(failure(Peer::Tokenizer, status, |_| None)),
        }
    }

    /// Ids to text, special tokens included. `field` is the field of our own API that the ids came from.
    pub(crate) async fn decode_all(
        &self,
        token_ids: Vec<u32>,
        field: &str,
        deadline: Option<Deadline>,
    ) -> Result<String, Failure> {
        let message = DecodeRequest { token_ids, skip_special_tokens: Some(false) };
        let call = |tried| {
            let (mut client, request) = (self.client.clone(), attempt(message.clone(), tried, deadline));
            async move { client.decode(request).await }
        };
        match self.retry.run(deadline, call).await {
            Ok(response) => Ok(response.into_inner().text),
            Err(status) => {
                let ours = |theirs: &str| Some(format!("{field}{}", theirs.strip_prefix("token_ids")?));
                Err(failure(Peer::Tokenizer, status, ours))
            }
        }
    }

    /// Ids to text as they come, special tokens left out.
    pub(crate) fn decode(&self, window: usize, deadline: Option<Deadline>) -> Decoding {
        let client = self.client.clone();
        let elsewhere = Elsewhere { resume: Arc::clone(&self.resume), deadline };
        Exchange::new(
            (Peer::Tokenizer, window),
            elsewhere,
            move |ids, tried| {
                let mut client = client.clone();
                let messages =
                    ids.map(|token_ids| DecodeStreamRequest { token_ids, skip_special_tokens: None });
                async move { client.decode_stream(attempt(messages, tried, deadline)).await }
            },
            |answer| match answer {
                Ok(DecodeStreamResponse { text }) => Ok(text),
                Err(status) => Err(failure(Peer::Tokenizer, status, |_| None)),
            },
        )
    }

    /// How these tokens are spelled, each by itself.
    pub(crate) async fn spell(
        &self,
        token_ids: Vec<u32>,
        deadline: Option<Deadline>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let expected = token_ids.len();
        let message = SpellRequest { token_ids };
        let call = |tried| {
            let (mut client, request) = (self.client.clone(), attempt(message.clone(), tried, deadline));
            async move { client.spell(request).await }
        };
        let answer = self.retry.run(deadline, call).await;
        let spelled = answer.map_err(|status| failure(Peer::Tokenizer, status, |_| None))?.into_inner();
        if spelled.tokens.len() == expected {
            return Ok(spelled.tokens);
        }
        Err(Error::Broken { peer: Peer::Tokenizer, what: "not one spelling for each id" })
    }

    /// What is loaded. Not retried: whoever asks, asks again.
    pub(crate) async fn vocabulary(&self, deadline: Option<Deadline>) -> Result<Vocabulary, Failure> {
        account(self.client.clone(), deadline).await
    }

    /// What one replica has loaded.
    pub(crate) async fn vocabulary_of(
        replica: &Replica,
        deadline: Option<Deadline>,
    ) -> Result<Vocabulary, Failure> {
        account(TokenizerServiceClient::new(Endpoint::direct(replica)), deadline).await
    }
}

async fn account(
    mut client: TokenizerServiceClient<Endpoint>,
    deadline: Option<Deadline>,
) -> Result<Vocabulary, Failure> {
    let answer = client.get_tokenizer_info(request(GetTokenizerInfoRequest {}, deadline)).await;
    let info = answer.map_err(|status| failure(Peer::Tokenizer, status, |_| None))?.into_inner();
    Ok(Vocabulary {
        fingerprint: info.fingerprint,
        size: info.vocabulary_size,
        has_chat_template: info.has_chat_template,
    })
}

fn wire_message(message: &Message) -> common::ChatMessage {
    let calls = message.tool_calls.iter().map(|call| common::ToolCall {
        id: call.id.clone(),
        name: call.name.clone(),
        arguments_json: call.arguments_json.clone(),
    });
    let role = match message.role {
        Role::System => common::Role::System,
        Role::User => common::Role::User,
        Role::Assistant => common::Role::Assistant,
        Role::Tool => common::Role::Tool,
    };
    common::ChatMessage {
        role: role.into(),
        content: message.content.clone(),
        name: message.name.clone(),
        tool_calls: calls.collect(),
        tool_call_id: message.tool_call_id.clone(),
    }
}

fn wire_tool(tool: &Tool) -> common::Tool {
    common::Tool {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters_json_schema: tool.parameters_json_schema.clone(),
    }
}
