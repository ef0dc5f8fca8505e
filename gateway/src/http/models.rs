//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::extract::{Path, Request, State};
use http::Response;
use serde::Serialize;
use tonic::{Status, body::Body};

use super::{Desk, Refusal, wire};
use crate::{models::Served, request::Scope};

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
    let usable = desk.models.list(&scope.caller, scope.deadline).await?;
    wire::json(&List { object: "list", data: usable.iter().map(|served| model(desk, served)).collect() })
}

async fn one(desk: &Desk, scope: &Scope, name: &str) -> Result<Response<Body>, Status> {
    let served = desk.models.describe(name, &scope.caller, scope.deadline).await?;
    wire::json(&model(desk, &served))
}

fn model(desk: &Desk, served: &Served) -> Model {
    let model = &served.model;
    Model {
        id: model.id.clone(),
        object: "model",
        created: desk.opened,
        owned_by: "weft",
        max_model_len: model.context_length,
        architecture: model.architecture.clone(),
        dtype: model.dtype.clone(),
        parameters: model.parameters,
        chat: served.chat,
    }
}
