//! Inference: ids in, ids out.

use std::sync::Arc;

use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;
use weft_proto::{
    common::v1 as common,
    inference::v1::{
        self as wire, GenerateRequest, GenerateResponse, GetModelInfoRequest, ListAdaptersRequest,
        generate_response::Event, inference_service_client::InferenceServiceClient,
    },
};
use weft_runtime::{
    Deadline,
    client::{Replica, Tried},
    status,
};

use super::{
    Route, attempt, balance, endpoint::Endpoint, failure, generation::Generation, hedge::Hedge, request,
    resume::Resume, retry::Retry,
};
use crate::{
    answer::{FinishReason, Token, Usage},
    error::{Error, Failure, Peer},
    request::{Constraint, Form, Options, Sampling, Scope, StopRules},
};

/// Calls inference. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Inference {
    client: InferenceServiceClient<Endpoint>,
    retry: Arc<Retry>,
    hedge: Arc<Hedge>,
    pub(super) resume: Arc<Resume>,
    /// Tokens of a prompt that the balancer takes together.
    block_tokens: usize,
}

/// A model that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) architecture: String,
    pub(crate) dtype: String,
    /// Of keys and values: in another type they are others, and so may be the answer.
    pub(crate) kv_dtype: String,
    pub(crate) device: String,
    pub(crate) context_length: u32,
    pub(crate) parameters: u64,
    pub(crate) end_token_ids: Vec<u32>,
    pub(crate) vocabulary_size: u32,
    /// SHA-256 of the `tokenizer.json` in its folder; empty if it has none.
    pub(crate) tokenizer_fingerprint: String,
}

/// A generation whose first message has come.
pub(super) struct Opened {
    pub(super) first: Option<GenerateResponse>,
    pub(super) messages: Streaming<GenerateResponse>,
}

/// What a generation says.
#[derive(Debug)]
pub(crate) enum Generated {
    /// The next tokens of one of its answers, in order.
    Tokens { index: u32, tokens: Vec<Token> },
    /// One of its answers ended by itself.
    End {
        index: u32,
        reason: FinishReason,
        /// The end token that was met: the last id of the last tokens.
        stop_token: Option<u32>,
        usage: Usage,
    },
}

impl Inference {
    pub(super) fn new(route: Route, block_tokens: usize) -> Self {
        let client = InferenceServiceClient::new(route.endpoint);
        Self {
            client: client.max_decoding_message_size(route.max_message_bytes),
            retry: route.retry,
            hedge: route.hedge,
            resume: route.resume,
            block_tokens,
        }
    }

    /// Begins a generation and waits until it runs. `field` is the field of our own API that the prompt came from.
    pub(crate) async fn generate(
        &self,
        prompt: Vec<u32>,
        options: &Options,
        field: &str,
        scope: &Scope,
    ) -> Result<Generation, Error> {
        let deadline = scope.deadline;
        let message = wire_request(prompt, options, scope);
        let constraint = options.constraint.as_ref().map(|constraint| constraint.field);
        let tried = Tried::default();
        let open = || self.open(message.clone(), &tried, deadline);
        // A replica that is lost before its first token is as little the caller's matter as one that is lost later.
        let elsewhere = |status: &Status| self.resume.rescues(status);
        let ours = |status| {
            failure(Peer::Inference, of_adapter(status), |theirs| our_field(theirs, field, constraint))
        };
        let opened = self.retry.run_or(deadline, elsewhere, open).await.map_err(ours)?;
        self.resume.begun(options.n.unwrap_or(1));
        let wanted = options.prompt_logprobs.is_some();
        let mut generation = Generation::new(self.clone(), opened, message, (tried, deadline, constraint))?;
        if wanted {
            generation.read_prompt().await?;
        }
        Ok(generation)
    }

    /// Opens a generation, at a replica that was not tried if there is one, and waits for its first message: until that has
    /// come, the call may be made again without anyone noticing.
    pub(super) async fn open(
        &self,
        message: GenerateRequest,
        tried: &Tried,
        deadline: Option<Deadline>,
    ) -> Result<Opened, Status> {
        let GenerateRequest { prompt_token_ids, cache_salt, adapter_id, .. } = &message;
        let salt = cache_salt.as_deref().unwrap_or_default();
        let beginning = balance::Route::of(prompt_token_ids, salt, adapter_id.as_deref(), self.block_tokens);
        let mut request = attempt(message, tried.clone(), deadline);
        request.extensions_mut().insert(beginning);
        let mut messages = self.client.clone().generate(request).await?.into_inner();
        let first = messages.message().await?;
        Ok(Opened { first, messages })
    }

    /// Embeds sequences of ids: one vector for each, in order.
    pub(crate) async fn embed(&self, inputs: Vec<Vec<u32>>, scope: &Scope) -> Result<Vec<Vec<f32>>, Error> {
        let deadline = scope.deadline;
        let expected = inputs.len();
        let inputs = inputs.into_iter().map(|token_ids| wire::TokenSequence { token_ids }).collect();
        let tenant = scope.tenant().name().map(str::to_owned);
        let message = wire::EmbedRequest { inputs, tenant };
        let call = |tried| {
            let (mut client, request) = (self.client.clone(), attempt(message.clone(), tried, deadline));
            async move { client.embed(request).await }
        };
        let answer = self.retry.run_hedged(&self.hedge, deadline, call).await;
        let rename = |theirs: &str| theirs.strip_suffix(".token_ids").map(str::to_owned);
        let answer = answer.map_err(|status| failure(Peer::Inference, status, rename))?;
        let vectors: Vec<_> =
            answer.into_inner().embeddings.into_iter().map(|vector| vector.values).collect();
        if vectors.len() == expected { Ok(vectors) } else { Err(broken("not one embedding for each input")) }
    }

    /// What is loaded. Not retried: whoever asks, asks again.
    pub(crate) async fn model(&self, deadline: Option<Deadline>) -> Result<Model, Failure> {
        account(self.client.clone(), deadline).await
    }

    /// The names of the adapters that are loaded. Not retried either.
    pub(crate) async fn adapters(&self, deadline: Option<Deadline>) -> Result<Vec<String>, Failure> {
        let answer = self.client.clone().list_adapters(request(ListAdaptersRequest {}, deadline)).await;
        let listed = answer.map_err(|status| failure(Peer::Inference, status, |_| None))?.into_inner();
        Ok(listed.adapters.into_iter().map(|adapter| adapter.adapter_id).collect())
    }

    /// What one replica has loaded.
    pub(crate) async fn model_of(replica: &Replica, deadline: Option<Deadline>) -> Result<Model, Failure> {
        account(InferenceServiceClient::new(Endpoint::direct(replica)), deadline).await
    }
}

impl Model {
    /// Whether an answer of one may go on in the other: the same in all but the device.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        *self == Self { device: self.device.clone(), ..other.clone() }
    }
}

async fn account(
    mut client: InferenceServiceClient<Endpoint>,
    deadline: Option<Deadline>,
) -> Result<Model, Failure> {
    let answer = client.get_model_info(request(GetModelInfoRequest {}, deadline)).await;
    let info = answer.map_err(|status| failure(Peer::Inference, status, |_| None))?.into_inner();
    Ok(Model {
        id: info.model_id,
        architecture: info.architecture,
        dtype: info.dtype,
        kv_dtype: info.kv_dtype,
        device: info.device,
        context_length: info.context_length,
        parameters: info.parameters,
        end_token_ids: info.end_token_ids,
        vocabulary_size: info.vocabulary_size,
        tokenizer_fingerprint: info.tokenizer_fingerprint,
    })
}

pub(super) fn read(message: GenerateResponse) -> Result<Generated, Error> {
    match message.event {
        Some(Event::Tokens(tokens)) => {
            let index = tokens.index;
            Ok(Generated::Tokens { index, tokens: tokens.tokens.into_iter().map(read_token).collect() })
        }
        Some(Event::Finished(finished)) => {
            let usage = finished.usage.unwrap_or_default();
            let reason = match finished.reason() {
                common::FinishReason::Stop => FinishReason::Stop,
                common::FinishReason::Length => FinishReason::Length,
                common::FinishReason::ContentFilter | common::FinishReason::Unspecified => {
                    return Err(broken("a generation ended for a reason that it cannot have"));
                }
            };
            Ok(Generated::End {
                index: finished.index,
                reason,
                stop_token: finished.stop_token_id,
                usage: Usage {
                    prompt: usage.prompt_tokens,
                    completion: usage.completion_tokens,
                    cached_prompt: usage.cached_prompt_tokens,
                },
            })
        }
        Some(Event::Started(_)) => Err(broken("a generation began twice")),
        Some(Event::PromptLogprobs(_)) => {
            Err(broken("a generation brought log-probabilities that nobody asked for"))
        }
        None => Err(broken("a message of a generation is empty")),
    }
}

pub(super) fn read_token(token: wire::Token) -> Token {
    let top = token.top_logprobs.into_iter().map(|likely| (likely.id, likely.logprob)).collect();
    Token { id: token.id, logprob: token.logprob, top }
}

pub(super) fn broken(what: &'static str) -> Error {
    Error::Broken { peer: Peer::Inference, what }
}

/// Inference's own fields are `sampling.top_p` and the like, which we have below `options`; but a constraint may have come
/// from a tool.
pub(super) fn our_field(theirs: &str, prompt: &str, constraint: Option<&'static str>) -> Option<String> {
    let known = ["sampling", "stop", "top_logprobs", "priority", "constraint", "n"];
    if theirs.starts_with("prompt_token_ids") {
        Some(prompt.to_owned())
    } else if let Some(field) = constraint.filter(|_| theirs.starts_with("constraint")) {
        Some(theirs.replacen("constraint", field, 1))
    } else if known.contains(&theirs.split(['.', '[']).next().unwrap_or_default()) {
        Some(format!("options.{theirs}"))
    } else {
        None
    }
}

fn wire_constraint(constraint: &Constraint) -> common::Constraint {
    use common::constraint::Form as Wire;
    let form = match constraint.form.clone() {
        Form::JsonSchema(text) => Wire::JsonSchema(text),
        Form::Regex(text) => Wire::Regex(text),
        Form::Lark(text) => Wire::LarkGrammar(text),
        Form::Choice(options) => Wire::Choice(common::Choice { options }),
        Form::JsonObject => Wire::JsonObject(true),
    };
    common::Constraint { form: Some(form) }
}

/// An adapter that is not loaded, with the field of ours that names it.
fn of_adapter(status: Status) -> Status {
    if status::reason_of(&status).as_deref() != Some("ADAPTER_NOT_LOADED") {
        return status;
    }
    let message = format!("`options.adapter_id`: {}", status.message());
    Status::with_error_details(status.code(), message, status.get_error_details())
}

fn wire_request(prompt_token_ids: Vec<u32>, options: &Options, scope: &Scope) -> GenerateRequest {
    GenerateRequest {
        prompt_token_ids,
        sampling: Some(wire_sampling(&options.sampling)),
        stop: Some(wire_stop(&options.stop)),
        top_logprobs: options.top_logprobs,
        priority: options.priority,
        n: options.n,
        prompt_top_logprobs: options.prompt_logprobs,
        adapter_id: options.adapter_id.clone(),
        tenant: scope.tenant().name().map(str::to_owned),
        constraint: options.constraint.as_ref().map(wire_constraint),
        cache_salt: Some(scope.tenant().cache_salt(options.cache_salt.as_deref().unwrap_or_default())),
        ..GenerateRequest::default()
    }
}

fn wire_sampling(sampling: &Sampling) -> common::SamplingParams {
    common::SamplingParams {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        logit_bias: sampling.logit_bias.clone(),
        seed: sampling.seed,
    }
}

fn wire_stop(stop: &StopRules) -> common::StopConditions {
    common::StopConditions {
        max_tokens: stop.max_tokens,
        min_tokens: stop.min_tokens,
        stop_token_ids: stop.stop_token_ids.clone(),
        ignore_eos: stop.ignore_eos,
    }
}
