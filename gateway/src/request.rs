//! What a caller asks for, after every rule of the contract was checked.
//!
//! Map: `faults` (everything that is wrong with a request), `rules` (what every request keeps), `tool_choice` (a tool that
//! must be called).

mod faults;
mod rules;
pub(crate) mod tool_choice;

pub(crate) use faults::Faults;
pub(crate) use rules::MAX_TOP_LOGPROBS;

use std::{collections::HashMap, mem};

use weft_runtime::Deadline;

use crate::{
    inbound::{admission::Extent, auth::Identity, tenant::Tenant},
    latency::Latency,
};

/// What all calls made for one request share.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// Names the request in logs and in its answer: the trace's id, where there is one.
    pub(crate) request_id: String,
    /// When the caller stops waiting.
    pub(crate) deadline: Option<Deadline>,
    /// Who asks, and what they may use.
    pub(crate) caller: Identity,
    /// What its caller is kept waiting by.
    pub(crate) latency: Latency,
}

impl Scope {
    /// Whom the request is charged to.
    pub(crate) fn tenant(&self) -> &Tenant {
        self.caller.tenant()
    }
}

/// A request for text.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The model's name; empty means the only one served.
    pub(crate) model: String,
    /// What the model is given.
    pub(crate) prompt: Prompt,
    /// How it answers.
    pub(crate) options: Options,
}

/// What the model is given.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    /// A conversation, to be rendered by the model's chat template.
    Chat(Conversation),
    /// A text to continue.
    Text {
        /// The text.
        text: String,
        /// Whether the tokenizer adds the tokens that the model expects around a text.
        add_special_tokens: Option<bool>,
    },
    /// Tokens to continue.
    Ids {
        /// At least one.
        ids: Vec<u32>,
        /// What they say, once the tokenizer was asked: the safety filter reads text.
        text: String,
    },
}

/// A conversation and the tools that the model may call in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    /// At least one.
    pub(crate) messages: Vec<Message>,
    /// May be empty.
    pub(crate) tools: Vec<Tool>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// One turn of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: String,
    pub(crate) name: Option<String>,
    pub(crate) tool_calls: Vec<ToolCall>,
    pub(crate) tool_call_id: Option<String>,
}

/// A call that the assistant made.
#[derive(Clone, Debug)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments_json: String,
}

/// A tool that the model may call.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parameters_json_schema: String,
}

/// How the model answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) sampling: Sampling,
    pub(crate) stop: StopRules,
    /// How many of the likeliest tokens are reported at each position; `None` reports no log-probabilities at all.
    pub(crate) top_logprobs: Option<u32>,
    pub(crate) priority: Option<i32>,
    /// How many answers; `None` means one.
    pub(crate) n: Option<u32>,
    /// Separates prefix caches within the tenant.
    pub(crate) cache_salt: Option<String>,
    /// The safety policy; `None` means the gateway's default.
    pub(crate) safety_policy: Option<String>,
    /// The adapter that the model goes through; `None` means the base model alone.
    pub(crate) adapter_id: Option<String>,
    pub(crate) constraint: Option<Constraint>,
    /// Whether the prompt is told too, as the model was given it.
    pub(crate) echo: bool,
    /// How many of the likeliest tokens are reported at each position of the prompt; `None` reports none.
    pub(crate) prompt_logprobs: Option<u32>,
}

impl Options {
    /// How many answers are made.
    pub(crate) fn answers(&self) -> u32 {
        self.n.unwrap_or(1)
    }
}

/// What the answer must look like.
#[derive(Clone, Debug)]
pub(crate) struct Constraint {
    pub(crate) form: Form,
    /// The field of our own API that it came from.
    pub(crate) field: &'static str,
}

/// The forms of a constraint.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    JsonSchema(String),
    Regex(String),
    Lark(String),
    Choice(Vec<String>),
    JsonObject,
}

impl Form {
    /// How much text there is, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(options) => options.iter().map(String::len).sum(),
            Self::JsonObject => 0,
        }
    }
}

/// How the next token is chosen. Unset fields take the model's defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sampling {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) logit_bias: HashMap<u32, f32>,
    pub(crate) seed: Option<u64>,
}

/// When the answer ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopRules {
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: Option<u32>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) ignore_eos: bool,
    /// Texts that end the answer and are not part of it: the gateway's own part of the rules.
    pub(crate) strings: Vec<String>,
}

impl Prompt {
    /// The operation in OpenTelemetry's words (`gen_ai.operation.name`).
    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Self::Chat(_) => "chat",
            Self::Text { .. } | Self::Ids { .. } => "text_completion",
        }
    }

    /// The field of the request that the prompt came from: where an error about the whole prompt points to.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Text { .. } | Self::Ids { .. } => "prompt",
        }
    }

    /// Every text that the model would see, in the order of the prompt. What is not in here is not screened.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut copy = self.clone();
        copy.texts_mut().into_iter().map(mem::take).collect()
    }

    /// How long it is, before the tokenizer was asked.
    pub(crate) fn extent(&mut self) -> Extent {
        match self {
            Self::Ids { ids, .. } => Extent::Tokens(ids.len()),
            Self::Chat(_) | Self::Text { .. } => Extent::Bytes(self.text_bytes()),
        }
    }

    /// Replaces every text, in the order of [`texts`](Self::texts). Tokens whose text is another are no longer those.
    pub(crate) fn replace_texts(&mut self, texts: Vec<String>) {
        if let Self::Ids { text, .. } = self {
            *self = Self::Text { text: mem::take(text), add_special_tokens: Some(false) };
        }
        for (place, text) in self.texts_mut().into_iter().zip(texts) {
            *place = text;
        }
    }

    /// How much text there is, in bytes.
    pub(crate) fn text_bytes(&mut self) -> usize {
        self.texts_mut().iter().map(|text| text.len()).sum()
    }

    fn texts_mut(&mut self) -> Vec<&mut String> {
        match self {
            Self::Chat(conversation) => conversation.texts_mut(),
            Self::Text { text, .. } | Self::Ids { text, .. } => vec![text],
        }
    }
}

impl Conversation {
    /// Tools come first, as chat templates render them.
    fn texts_mut(&mut self) -> Vec<&mut String> {
        let tools = self
            .tools
            .iter_mut()
            .flat_map(|tool| [&mut tool.name, &mut tool.description, &mut tool.parameters_json_schema]);
        tools.chain(self.messages.iter_mut().flat_map(Message::texts_mut)).collect()
    }
}

impl Message {
    fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let calls = self
            .tool_calls
            .iter_mut()
            .flat_map(|call| [&mut call.id, &mut call.name, &mut call.arguments_json]);
        self.name.iter_mut().chain([&mut self.content]).chain(calls).chain(self.tool_call_id.iter_mut())
    }
}
