//! The Open Inference Protocol (KServe, Triton): text in and out as tensors, through the same pipeline as our own API.
//!
//! Map: `request` (a request's tensors, as a request of our own API), `parameters` (its parameters), `answer` (our words
//! as tensors), `fields` (our fields under the names that they have here).
//!
//! Rules: what a request may say is for the rules of our own API to judge; a stream answers one request after the other,
//! so that it is one request in flight, as admission counts it.

mod answer;
mod fields;
mod parameters;
mod request;

use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tonic::{Request, Response, Status, Streaming, async_trait};
use weft_proto::kserve::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ModelStreamInferResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::GrpcInferenceService,
};
use weft_runtime::{Deadline, health::Health, status::violation};

use super::{Answers, Gateway, parse, scope};
use crate::{inbound::tenant::caller_of, pipeline::Events, request::Scope};
use answer::{Failed, Form};
use request::Wanted;

/// The header with which a caller asks for the errors of a stream as the call's own status.
const ERRORS_AS_STATUS: &str = "triton_grpc_error";

/// Serves the protocol.
#[derive(Clone, Debug)]
pub(crate) struct OpenInference {
    gateway: Gateway,
    health: Health,
}

/// An answer to one request of a stream, on the wire.
type Piece = Result<ModelInferResponse, Status>;

impl OpenInference {
    pub(crate) fn new(gateway: Gateway, health: Health) -> Self {
        Self { gateway, health }
    }

    async fn begin(&self, scope: &Scope, wanted: Wanted) -> Result<(Form, Events), Status> {
        let answered = self.gateway.pipeline.answer(scope, wanted.ask).await;
        let (started, events) = answered.map_err(fields::status)?;
        Ok((Form { model: started.model, seed: started.seed, ..wanted.form }, events))
    }

    /// Answers one request of a stream.
    async fn pieces(
        &self,
        scope: &Scope,
        request: ModelInferRequest,
    ) -> Result<BoxStream<'static, Piece>, Status> {
        let wanted = request::read(request, &self.gateway.limits)?;
        let streamed = wanted.stream.unwrap_or(true);
        let (form, events) = self.begin(scope, wanted).await?;
        Ok(if streamed {
            events.map(move |event| Ok(form.piece(event.map_err(fields::status)?))).boxed()
        } else {
            stream::once(answer::whole(form, events)).map_ok(answer::last).boxed()
        })
    }

    /// Answers one request of a stream, or says why not.
    async fn reply(
        self,
        scope: Scope,
        request: Result<ModelInferRequest, Status>,
    ) -> BoxStream<'static, Result<ModelInferResponse, Failed>> {
        let request = match request {
            Ok(request) => request,
            // The caller's stream is broken: nothing follows.
            Err(status) => return stream::iter([Err(Failed { id: None, status })]).boxed(),
        };
        let id = request.id.clone();
        let failed = move |status| Failed { id: Some(id.clone()), status };
        match self.pieces(&scope, request).await {
            Ok(pieces) => pieces.map_err(failed).boxed(),
            Err(status) => stream::iter([Err(failed(status))]).boxed(),
        }
    }
}

#[async_trait]
impl GrpcInferenceService for OpenInference {
    type ModelStreamInferStream = Answers<ModelStreamInferResponse>;

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.health.is_serving() }))
    }

    /// As Triton has it, a model that is not there is not ready, rather than an error.
    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let (deadline, caller) = (Deadline::of(&request), caller_of(request.extensions()));
        let ModelReadyRequest { name, version } = request.into_inner();
        let found = self.gateway.models.describe(&name, &caller, deadline).await;
        let served = request::is_version(&version) && found.is_ok();
        Ok(Response::new(ModelReadyResponse { ready: served && self.health.is_serving() }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(answer::server_metadata()))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let (deadline, caller) = (Deadline::of(&request), caller_of(request.extensions()));
        let ModelMetadataRequest { name, version } = request.into_inner();
        if !request::is_version(&version) {
            return Err(violation("version", &request::version_rule(&version)));
        }
        if !name.is_empty() {
            parse::model_name(&name)?;
        }
        let served = self.gateway.models.describe(&name, &caller, deadline).await?;
        Ok(Response::new(answer::model_metadata(&served.model.id)))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let scope = scope(&request);
        let wanted = request::read(request.into_inner(), &self.gateway.limits)?;
        if wanted.stream == Some(true) {
            let rule = "is true; must not be in ModelInfer, which has one answer: call ModelStreamInfer";
            return Err(violation("parameters[\"stream\"]", rule));
        }
        let (form, events) = self.begin(&scope, wanted).await?;
        Ok(Response::new(answer::whole(form, events).await?))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let (door, scope) = (self.clone(), scope(&request));
        let as_status = request.metadata().get(ERRORS_AS_STATUS).is_some_and(|asked| asked == "true");
        // The next request is read when the one before it is answered.
        let answers =
            request.into_inner().then(move |request| door.clone().reply(scope.clone(), request)).flatten();
        let wire = move |answer| answer::in_stream(answer, as_status);
        Ok(Response::new(Box::pin(answers.map(wire))))
    }
}
