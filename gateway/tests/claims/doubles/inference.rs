//! Inference whose every generation is played by the test.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time::timeout,
};
use tonic::{Request, Response, Status, async_trait};
use weft_proto::{
    common::v1::{FinishReason, Usage},
    inference::v1::{
        Adapter, EmbedRequest, EmbedResponse, Embedding, Finished, GenerateRequest, GenerateResponse,
        GetEngineStatusRequest, GetEngineStatusResponse, GetModelInfoRequest, GetModelInfoResponse,
        ListAdaptersRequest, ListAdaptersResponse, LoadAdapterRequest, LoadAdapterResponse, ScoreRequest,
        ScoreResponse, Started, Token, Tokens, UnloadAdapterRequest, UnloadAdapterResponse,
        generate_response::Event,
        inference_service_server::{InferenceService, InferenceServiceServer},
    },
};
use weft_runtime::Services;

/// The end token.
pub(crate) const END: u32 = 999;

pub(crate) const MODEL: &str = "scripted";

#[derive(Clone)]
pub(crate) struct Inference {
    state: Arc<State>,
}

struct State {
    calls: mpsc::UnboundedSender<Call>,
    arrived: AsyncMutex<mpsc::UnboundedReceiver<Call>>,
    /// What the next calls are refused with, before anything else.
    refusals: Mutex<Vec<Status>>,
    embed: Mutex<Result<(), Status>>,
    /// How long embedding takes.
    embed_takes: Mutex<Duration>,
    fingerprint: Mutex<String>,
    adapters: Mutex<Vec<String>>,
}

impl Default for Inference {
    fn default() -> Self {
        let (calls, arrived) = mpsc::unbounded_channel();
        let state = State {
            calls,
            arrived: AsyncMutex::new(arrived),
            refusals: Mutex::default(),
            embed: Mutex::new(Ok(())),
            embed_takes: Mutex::default(),
            fingerprint: Mutex::new("same".to_owned()),
            adapters: Mutex::default(),
        };
        Self { state: Arc::new(state) }
    }
}

/// A generation that the test plays.
pub(crate) struct Call {
    pub(crate) request: GenerateRequest,
    reply: mpsc::Sender<Result<GenerateResponse, Status>>,
    generated: u32,
}

impl Inference {
    pub(crate) fn services(&self) -> Services {
        Services::new().add(InferenceServiceServer::new(self.clone()))
    }

    /// The next generation that is asked for.
    pub(crate) async fn call(&self) -> Call {
        self.state.arrived.lock().await.recv().await.unwrap()
    }

    /// Whether a generation was asked for that nobody has taken.
    pub(crate) async fn has_call(&self) -> bool {
        !self.state.arrived.lock().await.is_empty()
    }

    /// Refuses the next calls, one each.
    pub(crate) fn refuse(&self, refusals: impl IntoIterator<Item = Status>) {
        self.state.refusals.lock().unwrap().extend(refusals);
    }

    pub(crate) fn refuse_embed(&self, refusal: Status) {
        *self.state.embed.lock().unwrap() = Err(refusal);
    }

    pub(crate) fn embed_takes(&self, time: Duration) {
        *self.state.embed_takes.lock().unwrap() = time;
    }

    pub(crate) fn set_adapters(&self, names: &[&str]) {
        *self.state.adapters.lock().unwrap() = names.iter().map(|name| (*name).to_owned()).collect();
    }

    pub(crate) fn set_fingerprint(&self, fingerprint: &str) {
        fingerprint.clone_into(&mut self.state.fingerprint.lock().unwrap());
    }
}

impl Call {
    /// Says that it runs.
    pub(crate) async fn start(&mut self) {
        self.start_after(Duration::ZERO, Duration::ZERO).await;
    }

    /// The same, after so long in its queue and its prompt's way through the model.
    pub(crate) async fn start_after(&mut self, queue: Duration, prefill: Duration) {
        let prompt_tokens = u32::try_from(self.request.prompt_token_ids.len()).unwrap();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
        let (queue_micros, prefill_micros) = (micros(queue), micros(prefill));
        let started = Started { prompt_tokens, seed: 42, queue_micros, prefill_micros, ..Started::default() };
        self.send(Event::Started(started)).await;
    }

    /// Generates these tokens, in one message.
    pub(crate) async fn tokens(&mut self, ids: &[u32]) {
        self.tokens_of(0, ids).await;
    }

    /// Generates these tokens of one of several answers.
    pub(crate) async fn tokens_of(&mut self, index: u32, ids: &[u32]) {
        self.generated += u32::try_from(ids.len()).unwrap();
        let logprob = self.request.top_logprobs.map(|_| -0.5);
        let tokens = ids.iter().map(|&id| Token { id, logprob, top_logprobs: Vec::new() }).collect();
        self.send(Event::Tokens(Tokens { tokens, index })).await;
    }

    /// Ends it as the model does: with its end token.
    pub(crate) async fn end(mut self) {
        self.tokens(&[END]).await;
        self.finish(FinishReason::Stop, Some(END)).await;
    }

    /// Ends it, and then loses its goodbye.
    pub(crate) async fn finish_and_fail(self, reason: FinishReason, status: Status) {
        let reply = self.reply.clone();
        self.finish(reason, None).await;
        reply.send(Err(status)).await.unwrap();
    }

    /// Ends one of several answers, whose tokens were so many; the prompt is charged to the first.
    pub(crate) async fn end_of(&mut self, index: u32, completion_tokens: u32) {
        self.tokens_of(index, &[END]).await;
        let prompt = u32::try_from(self.request.prompt_token_ids.len()).unwrap();
        let usage = Usage {
            prompt_tokens: if index == 0 { prompt } else { 0 },
            completion_tokens: completion_tokens + 1,
            cached_prompt_tokens: 0,
        };
        let (reason, stop_token_id) = (FinishReason::Stop.into(), Some(END));
        let finished = Finished { reason, stop_token_id, usage: Some(usage), timings: None, index };
        self.send(Event::Finished(finished)).await;
    }

    pub(crate) async fn finish(self, reason: FinishReason, stop_token_id: Option<u32>) {
        let usage = Usage {
            prompt_tokens: u32::try_from(self.request.prompt_token_ids.len()).unwrap(),
            completion_tokens: self.generated,
            cached_prompt_tokens: 0,
        };
        let finished =
            Finished { reason: reason.into(), stop_token_id, usage: Some(usage), timings: None, index: 0 };
        self.send(Event::Finished(finished)).await;
    }

    pub(crate) async fn fail(self, status: Status) {
        self.reply.send(Err(status)).await.unwrap();
    }

    /// Resolves when the gateway has dropped it.
    pub(crate) async fn dropped(&self) {
        self.reply.closed().await;
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.reply.is_closed()
    }

    /// Generates a token, and says whether anybody takes it: not within a second in which nothing else moves.
    pub(crate) async fn takes(&mut self, id: u32) -> bool {
        timeout(Duration::from_secs(1), self.tokens(&[id])).await.is_ok() && !self.is_dropped()
    }

    async fn send(&self, event: Event) {
        // A test that plays on after the gateway has left is no mistake.
        let _ = self.reply.send(Ok(GenerateResponse { event: Some(event) })).await;
    }
}

#[async_trait]
impl InferenceService for Inference {
    type GenerateStream = BoxStream<'static, Result<GenerateResponse, Status>>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let refusal = self.state.refusals.lock().unwrap().pop();
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let (reply, messages) = mpsc::channel(1);
        self.state.calls.send(Call { request: request.into_inner(), reply, generated: 0 }).unwrap();
        let messages = stream::unfold(messages, |mut messages| async {
            let message = messages.recv().await?;
            Some((message, messages))
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        self.state.embed.lock().unwrap().clone()?;
        let takes = *self.state.embed_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        let inputs = request.into_inner().inputs;
        let embeddings =
            inputs.iter().map(|input| Embedding { values: vec![input.token_ids.len() as f32] }).collect();
        Ok(Response::new(EmbedResponse { embeddings }))
    }

    async fn get_model_info(
        &self,
        _: Request<GetModelInfoRequest>,
    ) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(GetModelInfoResponse {
            model_id: MODEL.to_owned(),
            architecture: "ScriptedForCausalLM".to_owned(),
            dtype: "f32".to_owned(),
            kv_dtype: "f32".to_owned(),
            device: "cpu".to_owned(),
            vocabulary_size: 1_000,
            context_length: 100,
            hidden_size: 1,
            end_token_ids: vec![END],
            tokenizer_fingerprint: self.state.fingerprint.lock().unwrap().clone(),
            parameters: 1,
            version: "double".to_owned(),
        }))
    }

    async fn score(&self, _: Request<ScoreRequest>) -> Result<Response<ScoreResponse>, Status> {
        unused()
    }

    async fn load_adapter(
        &self,
        _: Request<LoadAdapterRequest>,
    ) -> Result<Response<LoadAdapterResponse>, Status> {
        unused()
    }

    async fn unload_adapter(
        &self,
        _: Request<UnloadAdapterRequest>,
    ) -> Result<Response<UnloadAdapterResponse>, Status> {
        unused()
    }

    async fn list_adapters(
        &self,
        _: Request<ListAdaptersRequest>,
    ) -> Result<Response<ListAdaptersResponse>, Status> {
        let named = |adapter_id: &String| Adapter { adapter_id: adapter_id.clone(), ..Adapter::default() };
        let adapters = self.state.adapters.lock().unwrap().iter().map(named).collect();
        Ok(Response::new(ListAdaptersResponse { adapters }))
    }

    async fn get_engine_status(
        &self,
        _: Request<GetEngineStatusRequest>,
    ) -> Result<Response<GetEngineStatusResponse>, Status> {
        unused()
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the gateway does not call this"))
}

/// A refusal that names a field of inference's own.
pub(crate) fn refusal(field: &str, description: &str) -> Status {
    let mut violations = weft_runtime::status::Violations::new();
    violations.push(field, description);
    violations.into_result().unwrap_err()
}
