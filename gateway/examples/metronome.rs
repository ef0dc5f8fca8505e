//! An inference service that computes nothing: each request has its first token after a fixed time and one more with every
//! beat, whatever else there is. So whatever a caller sees beyond that is the work of what stands between.
//!
//! At a second door it is an engine that speaks OpenAI's HTTP, with the same beat, for gateways that speak to such.
//!
//! `cargo run --example metronome -- --config /dev/null`, with `WEFT__METRONOME__BEAT=20ms` and, for the second door,
//! `WEFT__METRONOME__HTTP=127.0.0.1:8000`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use axum::{
    Router,
    response::{IntoResponse as _, Response as HttpResponse},
    routing::{get, post},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::Instant};
use tonic::{Request, Response, Status, async_trait, body::Body};
use tower::{layer::util::Identity, util::BoxCloneSyncService};
use weft_proto::{
    common::v1::{FinishReason, Usage},
    inference::v1::{
        EmbedRequest, EmbedResponse, Finished, GenerateRequest, GenerateResponse, GetEngineStatusRequest,
        GetEngineStatusResponse, GetModelInfoRequest, GetModelInfoResponse, ListAdaptersRequest,
        ListAdaptersResponse, LoadAdapterRequest, LoadAdapterResponse, ScoreRequest, ScoreResponse, Started,
        Token, Tokens, UnloadAdapterRequest, UnloadAdapterResponse,
        generate_response::Event,
        inference_service_server::{InferenceService, InferenceServiceServer},
    },
};
use weft_runtime::{
    BoxError, Services,
    config::{FromConfig, Section, any, positive},
    server::{Door, Incoming, Routes},
};

/// SmolLM2's, whose tokenizer stands beside it.
const VOCABULARY: u32 = 49_152;
/// " a little more" in SmolLM2's ids, over and over.
const WORDS: [u32; 3] = [253, 1838, 540];
/// Tokens of an answer that says nothing of its length.
const TOKENS: u32 = 64;

fn main() -> ExitCode {
    weft_runtime::main("inference", |config: Config, _| async move {
        let metronome = config.metronome;
        let services = Services::new().add(InferenceServiceServer::new(metronome.clone()));
        Ok::<_, BoxError>(match metronome.http {
            Some(address) => {
                let incoming = Incoming::listen("metronome.http", address).await?;
                services.door(Door::new(incoming, openai(metronome.pace), Identity::new()))
            }
            None => services,
        })
    })
}

struct Config {
    metronome: Metronome,
}

impl FromConfig for Config {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self { metronome: section.section("metronome") }
    }
}

/// Answers with one token for each beat.
#[derive(Clone)]
struct Metronome {
    pace: Pace,
    http: Option<SocketAddr>,
}

impl FromConfig for Metronome {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            pace: Pace::of(section.value("beat", Duration::from_millis(20), positive())),
            http: section.optional("http", any()),
        }
    }
}

/// Beats between milliseconds too. The timer of tokio knows only those, and rounds up to them: what is added to a request before
/// its first beat would vanish in that, or be doubled by it.
#[derive(Clone)]
struct Pace {
    beat: Duration,
    asked: Sender<Beat>,
}

/// When, and who waits for it.
type Beat = (Instant, oneshot::Sender<()>);

impl Pace {
    fn of(beat: Duration) -> Self {
        let (asked, beats) = channel();
        thread::spawn(move || strike(&beats));
        Self { beat, asked }
    }

    /// When the `index`-th message of an answer of so many tokens goes out: the beginning comes with the first token, the
    /// end with the last.
    async fn wait(&self, begun: Instant, index: u32, tokens: u32) {
        let (struck, waiting) = oneshot::channel();
        let when = begun + self.beat * index.clamp(1, tokens);
        if when > Instant::now() && self.asked.send((when, struck)).is_ok() {
            let _ = waiting.await;
        }
    }
}

/// Wakes each when it is time, until nobody can ask any more.
fn strike(beats: &Receiver<Beat>) {
    let (mut due, mut count) = (BTreeMap::<(Instant, u64), _>::new(), 0);
    loop {
        let first = due.first_key_value();
        let left = first.map(|((when, _), _)| when.saturating_duration_since(Instant::now()));
        let next = left.map_or_else(
            || beats.recv().map_err(|_| RecvTimeoutError::Disconnected),
            |left| beats.recv_timeout(left),
        );
        match next {
            Ok((when, waiting)) => {
                count += 1;
                due.insert((when, count), waiting);
            }
            Err(RecvTimeoutError::Timeout) => {
                let later = due.split_off(&(Instant::now(), u64::MAX));
                for (_, waiting) in std::mem::replace(&mut due, later) {
                    // A caller that has left is no loss.
                    let _: Result<(), ()> = waiting.send(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// An engine that speaks OpenAI's HTTP, as far as a gateway in front of it needs it.
fn openai(pace: Pace) -> Routes {
    let models = || async {
        let list = json!({"object": "list", "data": [{"id": "metronome", "object": "model"}]});
        ([("content-type", "application/json")], list.to_string())
    };
    let chat =
        move |asked: Bytes| async move { chat(&serde_json::from_slice(&asked).unwrap_or_default(), pace) };
    let router = Router::new()
        .route("/health", get(|| async { "" }))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat));
    BoxCloneSyncService::new(
        tower::ServiceBuilder::new()
            .map_response(|answer: HttpResponse| answer.map(Body::new))
            .service(router),
    )
}

/// A stream of events.
fn chat(asked: &Value, pace: Pace) -> HttpResponse {
    let tokens = asked["max_tokens"].as_u64().and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(TOKENS);
    let frames = events(pace, tokens).map(|event| Ok::<_, Infallible>(http_body::Frame::data(event)));
    let headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")];
    (headers, axum::body::Body::new(StreamBody::new(frames))).into_response()
}

fn events(pace: Pace, tokens: u32) -> impl Stream<Item = Bytes> {
    let begun = Instant::now();
    let event = |delta: &Value, reason: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        let chunk = json!({"id": "beat", "object": "chat.completion.chunk", "model": "metronome", "choices": [choice]});
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let said = move |index| match index {
        0 => event(&json!({"role": "assistant", "content": ""}), None),
        token if token <= tokens => event(&json!({"content": " more"}), None),
        _ => [event(&json!({}), Some("length")), Bytes::from_static(b"data: [DONE]\n\n")].concat().into(),
    };
    stream::iter(0..=tokens + 1).then(move |index| {
        let pace = pace.clone();
        async move {
            pace.wait(begun, index, tokens).await;
            said(index)
        }
    })
}

/// The `index`-th message of an answer of so many tokens: its beginning, a token, or its end.
fn event(index: u32, prompt_tokens: u32, tokens: u32) -> Event {
    match index {
        0 => Event::Started(Started { prompt_tokens, ..Started::default() }),
        token if token <= tokens => {
            let id = WORDS[token as usize % WORDS.len()];
            Event::Tokens(Tokens { tokens: vec![Token { id, ..Token::default() }], index: 0 })
        }
        _ => {
            let usage = Usage { prompt_tokens, completion_tokens: tokens, cached_prompt_tokens: 0 };
            let reason = FinishReason::Length.into();
            Event::Finished(Finished { reason, usage: Some(usage), ..Finished::default() })
        }
    }
}

#[async_trait]
impl InferenceService for Metronome {
    type GenerateStream = BoxStream<'static, Result<GenerateResponse, Status>>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let (begun, pace, request) = (Instant::now(), self.pace.clone(), request.into_inner());
        let prompt_tokens = u32::try_from(request.prompt_token_ids.len()).unwrap_or(u32::MAX);
        let tokens = request.stop.and_then(|stop| stop.max_tokens).unwrap_or(TOKENS);
        let messages = stream::iter(0..tokens + 2).then(move |index| {
            let pace = pace.clone();
            async move {
                pace.wait(begun, index, tokens).await;
                Ok(GenerateResponse { event: Some(event(index, prompt_tokens, tokens)) })
            }
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn get_model_info(
        &self,
        _: Request<GetModelInfoRequest>,
    ) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(GetModelInfoResponse {
            model_id: "metronome".to_owned(),
            architecture: "Metronome".to_owned(),
            vocabulary_size: VOCABULARY,
            context_length: 1 << 20,
            end_token_ids: vec![2],
            ..GetModelInfoResponse::default()
        }))
    }

    async fn embed(&self, _: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        silent()
    }

    async fn score(&self, _: Request<ScoreRequest>) -> Result<Response<ScoreResponse>, Status> {
        silent()
    }

    async fn load_adapter(
        &self,
        _: Request<LoadAdapterRequest>,
    ) -> Result<Response<LoadAdapterResponse>, Status> {
        silent()
    }

    async fn unload_adapter(
        &self,
        _: Request<UnloadAdapterRequest>,
    ) -> Result<Response<UnloadAdapterResponse>, Status> {
        silent()
    }

    async fn list_adapters(
        &self,
        _: Request<ListAdaptersRequest>,
    ) -> Result<Response<ListAdaptersResponse>, Status> {
        silent()
    }

    async fn get_engine_status(
        &self,
        _: Request<GetEngineStatusRequest>,
    ) -> Result<Response<GetEngineStatusResponse>, Status> {
        silent()
    }
}

fn silent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("a metronome only beats"))
}
