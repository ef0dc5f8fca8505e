//! `GET /v1/models` and `GET /v1/models/{id}`: the model, and each adapter of it under `MODEL:ADAPTER`.

use axum::extract::{Path, Request, State};
use http::Response;
use serde::Serialize;
use tonic::{Status, body::Body};

use super::{Desk, Refusal, wire};
use crate::{
    error::Error,
    models::{Name, Served},
    request::Scope,
};

#[derive(Debug, Serialize)]
struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// A model, in OpenAI's words; those after `owned_by` are of our own contract.
#[derive(Debug, Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The model that an adapter changes, as vLLM has it.
    parent: Option<String>,
    /// Longest sequence, prompt and output together.
    max_model_len: u32,
    architecture: String,
    dtype: String,
    parameters: u64,
    /// Whether chat completions work.
    chat: bool,
}

/// All models.
pub(super) async fn list(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Refusal> {
    let scope = desk.scope(&request)?;
    desk.told(&scope, all(&desk, &scope).await)
}

/// One of them.
pub(super) async fn get(
    State(desk): State<Desk>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let scope = desk.scope(&request)?;
    desk.told(&scope, one(&desk, &scope, &name).await)
}

async fn all(desk: &Desk, scope: &Scope) -> Result<Response<Body>, Status> {
    let served = desk.models.served(scope.deadline).await?;
    let base = Name { model: served.model.id.clone(), adapter: None };
    let usable = scope.caller.may_use(&base.model, None).is_ok();
    let adapters = desk.models.adapters(&base.model, &scope.caller, scope.deadline).await;
    let names = usable.then_some(base).into_iter().chain(adapters);
    wire::json(&List { object: "list", data: names.map(|name| model(desk, &served, &name)).collect() })
}

async fn one(desk: &Desk, scope: &Scope, name: &str) -> Result<Response<Body>, Status> {
    let name = desk.models.resolve(name, &scope.caller, scope.deadline).await?;
    scope.caller.may_use(&name.model, name.adapter.as_deref()).map_err(Error::from)?;
    wire::json(&model(desk, &desk.models.served(scope.deadline).await?, &name))
}

fn model(desk: &Desk, served: &Served, name: &Name) -> Model {
    let model = &served.model;
    Model {
        id: name.to_string(),
        object: "model",
        created: desk.opened,
        owned_by: "weft",
        parent: name.adapter.as_ref().map(|_| name.model.clone()),
        max_model_len: model.context_length,
        architecture: model.architecture.clone(),
        dtype: model.dtype.clone(),
        parameters: model.parameters,
        chat: served.chat,
    }
}
