//! The public API: wire types come in and go out here, and nowhere further.
//!
//! Map: `parse` (a request in our own words, or everything that is wrong with it), `answer` (our words on the wire),
//! `kserve` (the same pipeline for clients of the Open Inference Protocol).

mod answer;
pub(crate) mod kserve;
mod parse;

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _, stream};
use opentelemetry::trace::{TraceContextExt as _, TraceId};
use tonic::{Request, Response, Status, async_trait};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use weft_proto::gateway::v1::{
    ChatRequest, ChatResponse, CompleteRequest, CompleteResponse, EmbedRequest, EmbedResponse,
    GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse,
    gateway_service_server::GatewayService,
};
use weft_runtime::Deadline;

use crate::{
    answer::{Event, Started},
    config::Limits,
    inbound::tenant::caller_of,
    latency::Latency,
    models::Models,
    pipeline::{Inputs, Pipeline},
    request::{Ask, Scope},
};

/// Serves the public API.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pipeline: Arc<Pipeline>,
    models: Models,
    limits: Limits,
}

/// A stream of answers on the wire.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Gateway {
    pub(crate) fn new(pipeline: Arc<Pipeline>, models: Models, limits: Limits) -> Self {
        Self { pipeline, models, limits }
    }

    /// Answers Chat and Complete alike; `begin` and `go_on` put the answer into the method's own messages.
    async fn answer<T: Send + 'static>(
        &self,
        scope: &Scope,
        ask: Ask,
        begin: fn(Started) -> T,
        go_on: fn(Event) -> T,
    ) -> Result<Response<Answers<T>>, Status> {
        let (started, events) = self.pipeline.answer(scope, ask).await?;
        let first = stream::iter([Ok(begin(started))]);
        let rest = events.map(move |event| Ok(go_on(event?)));
        Ok(Response::new(Box::pin(first.chain(rest))))
    }
}

#[async_trait]
impl GatewayService for Gateway {
    type ChatStream = Answers<ChatResponse>;
    type CompleteStream = Answers<CompleteResponse>;

    async fn chat(&self, request: Request<ChatRequest>) -> Result<Response<Self::ChatStream>, Status> {
        let scope = scope(&request);
        let ask = parse::chat(request.into_inner(), &self.limits)?;
        self.answer(&scope, ask, answer::chat_started, answer::chat_event).await
    }

    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<Self::CompleteStream>, Status> {
        let scope = scope(&request);
        let ask = parse::complete(request.into_inner(), &self.limits)?;
        self.answer(&scope, ask, answer::complete_started, answer::complete_event).await
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let scope = scope(&request);
        let EmbedRequest { model, inputs } = request.into_inner();
        parse::embed(&model, &inputs, &self.limits)?;
        let embedded = self.pipeline.embed(&scope, &model, Inputs::Texts(inputs)).await?;
        Ok(Response::new(answer::embedded(embedded)))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let caller = caller_of(request.extensions());
        let usable = self.models.list(&caller, Deadline::of(&request)).await?;
        Ok(Response::new(ListModelsResponse { models: usable.iter().map(answer::model).collect() }))
    }

    async fn get_model(
        &self,
        request: Request<GetModelRequest>,
    ) -> Result<Response<GetModelResponse>, Status> {
        let (deadline, caller) = (Deadline::of(&request), caller_of(request.extensions()));
        let name = request.into_inner().model;
        parse::model_name(&name)?;
        let served = self.models.describe(&name, &caller, deadline).await?;
        Ok(Response::new(GetModelResponse { model: Some(answer::model(&served)) }))
    }
}

/// What all calls for this request share.
pub(crate) fn scope<T>(request: &Request<T>) -> Scope {
    let (deadline, caller) = (Deadline::of(request), caller_of(request.extensions()));
    Scope { request_id: request_id(), deadline, caller, latency: Latency::of(request) }
}

/// The id of the trace that the request is part of; where nothing is traced, one of its own.
fn request_id() -> String {
    let context = Span::current().context();
    let trace = context.span().span_context().trace_id();
    if trace == TraceId::INVALID { format!("{:032x}", rand::random::<u128>()) } else { trace.to_string() }
}
