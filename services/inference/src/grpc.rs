//! The wire. The only file that names generated types.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::Stream;
use tonic::{Request, Response, Status};
use weft_proto::{
    common::v1::{self as common, constraint::Form as WireForm},
    inference::v1::{
        self as wire,
        generate_response::Event as WireEvent,
        inference_service_server::{InferenceService, InferenceServiceServer},
    },
};
use weft_runtime::{Deadline, server::Limits, status::violation};

use crate::{
    adapters::Adapters,
    config::SchedulerConfig,
    constraint::{Compiler, Form, Grammar},
    engine::{EngineHandle, Event, Finished, Generation, Timings},
    error::EngineError,
    model::ModelInfo,
    request::{GenerateRequest, Served, check_inputs},
    resumption::Resumption,
    sampler::{Choice, SamplingRequest},
    stop::Ending,
};

mod adapters;
#[cfg(test)]
mod tests;

/// What the service says of itself.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// The name under which the model is served.
    pub(crate) model_id: String,
    /// The model.
    pub(crate) info: ModelInfo,
    /// The bounds of the batch and the queue.
    pub(crate) scheduler: SchedulerConfig,
    /// Tokens in a block.
    pub(crate) block_size: usize,
}

/// What does the work.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Runs generations.
    pub(crate) engine: EngineHandle,
    /// Compiles constraints.
    pub(crate) compiler: Compiler,
    /// Keeps adapters.
    pub(crate) adapters: Adapters,
}

/// The service over an engine.
pub(crate) fn service(
    backend: Backend,
    served: Served,
    about: About,
    limits: Limits,
) -> InferenceServiceServer<impl InferenceService> {
    let Backend { engine, compiler, adapters } = backend;
    InferenceServiceServer::new(Inference { engine, compiler, adapters, served, about })
        .max_decoding_message_size(limits.max_message_bytes)
}

#[derive(Debug)]
struct Inference {
    engine: EngineHandle,
    compiler: Compiler,
    adapters: Adapters,
    served: Served,
    about: About,
}

#[tonic::async_trait]
impl InferenceService for Inference {
    type GenerateStream = Tokens;

    async fn generate(
        &self,
        request: Request<wire::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let deadline = Deadline::of(&request).map(Deadline::instant);
        let request = request.into_inner();
        let adapter_id = request.adapter_id.clone();
        let asked = GenerateRequest::try_from(request)?;
        let constraint = asked.constraint.clone();
        let mut request = asked.check(&self.served, rand::random)?;
        request.adapter = adapters::lease(&self.adapters, adapter_id.as_deref())?;
        let fingerprint = adapters::fingerprint(&request)?;
        request.grammar = self.grammar(constraint).await?;
        Ok(Response::new(Tokens::of(self.engine.generate(request, deadline)?, fingerprint)))
    }

    async fn embed(
        &self,
        request: Request<wire::EmbedRequest>,
    ) -> Result<Response<wire::EmbedResponse>, Status> {
        let deadline = Deadline::of(&request).map(Deadline::instant);
        let wire::EmbedRequest { inputs, tenant } = request.into_inner();
        let inputs = check_inputs(token_ids(inputs), tenant, &self.served)?;
        let vectors = self.engine.embed(inputs, deadline).await?;
        let embeddings = vectors.into_iter().map(|values| wire::Embedding { values }).collect();
        Ok(Response::new(wire::EmbedResponse { embeddings }))
    }

    async fn score(
        &self,
        request: Request<wire::ScoreRequest>,
    ) -> Result<Response<wire::ScoreResponse>, Status> {
        let deadline = Deadline::of(&request).map(Deadline::instant);
        let wire::ScoreRequest { inputs, adapter_id, tenant } = request.into_inner();
        let inputs = check_inputs(token_ids(inputs), tenant, &self.served)?;
        let adapter = adapters::lease(&self.adapters, adapter_id.as_deref())?;
        let scores = self.engine.score(inputs, adapter, deadline).await?;
        let scores = scores.into_iter().map(|logprobs| wire::SequenceScore { logprobs }).collect();
        Ok(Response::new(wire::ScoreResponse { scores }))
    }

    async fn load_adapter(
        &self,
        request: Request<wire::LoadAdapterRequest>,
    ) -> Result<Response<wire::LoadAdapterResponse>, Status> {
        adapters::load(&self.adapters, request).await
    }

    async fn unload_adapter(
        &self,
        request: Request<wire::UnloadAdapterRequest>,
    ) -> Result<Response<wire::UnloadAdapterResponse>, Status> {
        adapters::unload(&self.adapters, request)
    }

    async fn list_adapters(
        &self,
        _: Request<wire::ListAdaptersRequest>,
    ) -> Result<Response<wire::ListAdaptersResponse>, Status> {
        Ok(Response::new(wire::ListAdaptersResponse { adapters: adapters::list(&self.adapters) }))
    }

    async fn get_model_info(
        &self,
        _: Request<wire::GetModelInfoRequest>,
    ) -> Result<Response<wire::GetModelInfoResponse>, Status> {
        let About { model_id, info, .. } = self.about.clone();
        Ok(Response::new(wire::GetModelInfoResponse {
            model_id,
            architecture: info.architecture,
            dtype: info.dtype,
            kv_dtype: info.kv_dtype,
            device: info.device,
            vocabulary_size: count(info.vocabulary_size),
            context_length: count(self.served.context_length),
            hidden_size: count(info.hidden_size),
            end_token_ids: info.end_token_ids,
            tokenizer_fingerprint: info.tokenizer_fingerprint,
            parameters: info.parameters,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn get_engine_status(
        &self,
        _: Request<wire::GetEngineStatusRequest>,
    ) -> Result<Response<wire::GetEngineStatusResponse>, Status> {
        let status = self.engine.status();
        Ok(Response::new(wire::GetEngineStatusResponse {
            waiting: count(status.waiting),
            running: count(status.running),
            max_waiting: count(self.about.scheduler.max_waiting),
            max_running: count(self.about.scheduler.max_sequences),
            kv_blocks_total: count(status.blocks_total),
            kv_blocks_free: count(status.blocks_free),
            kv_block_size: count(self.about.block_size),
            steps: status.steps,
            generated_tokens: status.generated,
            prefilled_tokens: status.prefilled,
            preemptions: status.preemptions,
            prefix_queried_tokens: status.prefix.queried_tokens,
            prefix_hit_tokens: status.prefix.hit_tokens,
            adapters: adapters::list(&self.adapters),
        }))
    }
}

impl Inference {
    /// The grammar of a constraint that was checked.
    async fn grammar(&self, constraint: Option<Form>) -> Result<Option<Grammar>, Status> {
        let Some(form) = constraint else { return Ok(None) };
        let field = form.field();
        self.compiler.grammar(form).await.map(Some).map_err(|error| error.into_status(field))
    }
}

impl TryFrom<wire::GenerateRequest> for GenerateRequest {
    type Error = Status;

    fn try_from(request: wire::GenerateRequest) -> Result<Self, Status> {
        let stop = request.stop.unwrap_or_default();
        Ok(Self {
            prompt: request.prompt_token_ids,
            sampling: request.sampling.unwrap_or_default().into(),
            max_tokens: stop.max_tokens,
            min_tokens: stop.min_tokens,
            stop_token_ids: stop.stop_token_ids,
            ignore_eos: stop.ignore_eos,
            top_logprobs: request.top_logprobs,
            prompt_top_logprobs: request.prompt_top_logprobs,
            priority: request.priority,
            tenant: request.tenant,
            cache_salt: request.cache_salt,
            continuations: request.n,
            constraint: request.constraint.map(constraint).transpose()?,
            resumption: request.resumption.map(Into::into),
        })
    }
}

/// The form of a constraint, of which there is exactly one.
fn token_ids(inputs: Vec<wire::TokenSequence>) -> Vec<Vec<u32>> {
    inputs.into_iter().map(|input| input.token_ids).collect()
}

fn constraint(constraint: common::Constraint) -> Result<Form, Status> {
    match constraint.form {
        Some(WireForm::JsonSchema(text)) => Ok(Form::JsonSchema(text)),
        Some(WireForm::Regex(text)) => Ok(Form::Regex(text)),
        Some(WireForm::LarkGrammar(text)) => Ok(Form::Lark(text)),
        Some(WireForm::Choice(choice)) => Ok(Form::Choice(choice.options)),
        Some(WireForm::JsonObject(true)) => Ok(Form::JsonObject),
        Some(WireForm::JsonObject(false)) => {
            Err(violation("constraint.json_object", "is false; must be true, or another form be set"))
        }
        None => Err(violation("constraint", "has no form; must have exactly one")),
    }
}

impl From<wire::Resumption> for Resumption {
    fn from(resumption: wire::Resumption) -> Self {
        Self {
            said: resumption.token_ids,
            index: usize::try_from(resumption.index).unwrap_or(usize::MAX),
            adapter_fingerprint: resumption.adapter_fingerprint,
        }
    }
}

impl From<common::SamplingParams> for SamplingRequest {
    fn from(params: common::SamplingParams) -> Self {
        Self {
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            logit_bias: params.logit_bias.into_iter().collect(),
            seed: params.seed,
        }
    }
}

/// A generation as messages. Tokens that have gathered while the reader was slow travel together.
#[derive(Debug)]
pub(crate) struct Tokens {
    generation: Generation,
    /// Of the adapter in use.
    adapter_fingerprint: Option<String>,
    /// Taken from the generation and not sent yet.
    held: VecDeque<Result<Event, EngineError>>,
}

/// The most tokens in a message: what a slow reader missed should not become one big frame.
const MAX_TOGETHER: usize = 64;

impl Tokens {
    fn of(generation: Generation, adapter_fingerprint: Option<String>) -> Self {
        Self { generation, adapter_fingerprint, held: VecDeque::new() }
    }

    /// Takes what is there without waiting.
    fn gather(&mut self, context: &mut Context<'_>) {
        while self.held.len() < MAX_TOGETHER {
            let Poll::Ready(Some(event)) = Pin::new(&mut self.generation).poll_next(context) else { return };
            self.held.push_back(event);
        }
    }

    /// What is held next, if it is a token of this continuation.
    fn next_of(&mut self, continuation: usize) -> Option<Choice> {
        let next = |event: &mut Result<Event, EngineError>| matches!(event, Ok(Event::Token { index, .. }) if *index == continuation);
        match self.held.pop_front_if(next)? {
            Ok(Event::Token { choice, .. }) => Some(choice),
            _ => None,
        }
    }

    /// The next message of what is held.
    fn message(&mut self) -> Option<Result<wire::GenerateResponse, Status>> {
        let event = match self.held.pop_front()? {
            Err(error) => return Some(Err(error.into())),
            Ok(Event::Started { prompt_tokens, seed, cached_prompt_tokens, waited }) => {
                WireEvent::Started(wire::Started {
                    prompt_tokens: count(prompt_tokens),
                    seed,
                    cached_prompt_tokens: count(cached_prompt_tokens),
                    adapter_fingerprint: self.adapter_fingerprint.take(),
                    queue_micros: micros(waited.queue),
                    prefill_micros: micros(waited.prefill),
                })
            }
            Ok(Event::Finished(finished)) => WireEvent::Finished(finished.into()),
            Ok(Event::Prompt(tokens)) => {
                let tokens = tokens.into_iter().map(Into::into).collect();
                WireEvent::PromptLogprobs(wire::PromptLogprobs { tokens })
            }
            Ok(Event::Token { index, choice }) => {
                let mut tokens = vec![choice.into()];
                while let Some(choice) = self.next_of(index) {
                    tokens.push(choice.into());
                }
                WireEvent::Tokens(wire::Tokens { tokens, index: count(index) })
            }
        };
        Some(Ok(wire::GenerateResponse { event: Some(event) }))
    }
}

impl Stream for Tokens {
    type Item = Result<wire::GenerateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.held.is_empty() {
            let Some(event) = ready!(Pin::new(&mut self.generation).poll_next(context)) else {
                return Poll::Ready(None);
            };
            self.held.push_back(event);
            self.gather(context);
        }
        Poll::Ready(self.message())
    }
}

impl From<Choice> for wire::Token {
    fn from(choice: Choice) -> Self {
        let (logprob, top) = choice.logprobs.map_or((None, Vec::new()), |all| (Some(all.chosen), all.top));
        let top_logprobs = top.into_iter().map(|(id, logprob)| wire::TokenLogprob { id, logprob }).collect();
        Self { id: choice.token, logprob, top_logprobs }
    }
}

impl From<Finished> for wire::Finished {
    fn from(finished: Finished) -> Self {
        let (reason, stop_token_id) = match finished.ending {
            Ending::Stop(id) => (common::FinishReason::Stop, Some(id)),
            Ending::Complete => (common::FinishReason::Stop, None),
            Ending::Length => (common::FinishReason::Length, None),
        };
        // All continuations have one prompt: it is charged to the first.
        let first = finished.index == 0;
        let of_prompt = |tokens| if first { count(tokens) } else { 0 };
        let usage = common::Usage {
            prompt_tokens: of_prompt(finished.prompt_tokens),
            completion_tokens: count(finished.completion_tokens),
            cached_prompt_tokens: of_prompt(finished.cached_prompt_tokens),
        };
        Self {
            reason: reason.into(),
            stop_token_id,
            usage: Some(usage),
            timings: Some(finished.timings.into()),
            index: count(finished.index),
        }
    }
}

impl From<Timings> for wire::Timings {
    fn from(timings: Timings) -> Self {
        Self {
            queue_micros: micros(timings.queue),
            prefill_micros: micros(timings.prefill),
            decode_micros: micros(timings.decode),
            preemptions: timings.preemptions,
        }
    }
}

/// A time on the wire.
fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A count on the wire; none of ours comes near the type's end.
fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
