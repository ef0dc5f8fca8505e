//! OpenAI's HTTP API, beside the gRPC API and through the same pipeline.
//!
//! Map: `routes` (which call is answered by what), `edge` (between HTTP and what every layer understands), `json` (a
//! request, every problem of it named), `options` (what completions have in common), `chat`, `completions`, `embeddings`, `moderations`,
//! `models`, `wire` (OpenAI's
//! words), `spelling` (tokens by their text), `sse` (event streams), `failure` (errors in OpenAI's shape), `config`.
//!
//! Rules: a field that would change the answer and is not served is refused by name; one that changes nothing is known
//! here and taken. What happens to a call between the edge and a handler is what happens to gRPC's: the same layers, the
//! same statuses.

mod chat;
mod completions;
pub(crate) mod config;
mod edge;
mod embeddings;
mod failure;
mod json;
mod models;
mod moderations;
mod options;
mod routes;
mod spelling;
mod sse;
mod wire;

use std::sync::Arc;

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use tonic::{Status, body::Body, metadata::MetadataMap};
use weft_runtime::server::{Door, Incoming};

use crate::{
    config::Limits,
    grpc,
    models::{Models, Name},
    pipeline::Pipeline,
    request::{Ask, Scope},
};

/// What every handler works with. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) models: Models,
    pub(crate) limits: Limits,
    /// The largest body.
    pub(crate) most_bytes: usize,
    /// When this gateway started, in seconds since 1970: nobody knows when a model was made.
    opened: u64,
}

/// The door.
pub(crate) fn door(incoming: Incoming, desk: Desk) -> Door {
    Door::new(incoming, routes::routes(desk), edge::EdgeLayer)
}

impl Desk {
    pub(crate) fn new(pipeline: Arc<Pipeline>, models: Models, limits: Limits, most_bytes: usize) -> Self {
        Self { pipeline, models, limits, most_bytes, opened: wire::now() }
    }

    /// What all calls for this request share.
    fn scope(&self, request: &Request) -> Result<Scope, Status> {
        if let Some(edge::Misspoken(wrong)) = request.extensions().get() {
            return Err(wrong.clone());
        }
        // Where the identity of a caller and its deadline are looked for.
        let metadata = MetadataMap::from_headers(request.headers().clone());
        Ok(grpc::scope(&tonic::Request::from_parts(metadata, request.extensions().clone(), ())))
    }

    /// Finds the adapter that `model` may name beside the model, as in `MODEL:ADAPTER`.
    async fn resolve(&self, scope: &Scope, ask: &mut Ask) -> Result<(), Status> {
        let Name { model, adapter } = self.models.resolve(&ask.model, &scope.caller, scope.deadline).await?;
        if let (Some(named), Some(given)) = (&adapter, &ask.options.adapter_id)
            && named != given
        {
            let rule = format!("is {given:?}; must be left out, since `model` names the adapter {named:?}");
            return Err(weft_runtime::status::violation("adapter_id", &rule));
        }
        ask.model = model;
        ask.options.adapter_id = adapter.or_else(|| ask.options.adapter_id.take());
        Ok(())
    }

    /// An answer or a refusal, with the request's name.
    fn told(
        &self,
        scope: &Scope,
        told: Result<http::Response<Body>, Status>,
    ) -> Result<http::Response<Body>, Refusal> {
        Ok(wire::named(told.unwrap_or_else(Status::into_http), scope))
    }
}

/// A call that is refused.
#[derive(Debug)]
struct Refusal(Status);

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.into_http()
    }
}
