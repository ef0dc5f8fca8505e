//! The admin port: `/livez`, `/readyz`, `/metrics`.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use crate::Context;

/// What the admin port answers. `/livez` answers while the process runs, `/readyz` says 503 and why where it should not
/// be sent work, `/metrics` is OpenMetrics text.
pub fn router(context: &Context) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(context.clone())
}

/// Serves it until the process ends: what drains is watched too.
pub(crate) fn serve(context: &Context, listener: TcpListener) {
    let (router, drain) = (router(context), context.drain.clone());
    context.tasks.spawn("admin", async move {
        let stopping = async move { drain.reached(crate::drain::Phase::Stopping).await };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopping).await {
            tracing::error!(%error, "the admin port failed");
        }
    });
}

async fn readyz(State(context): State<Context>) -> impl IntoResponse {
    let conditions = context.health.conditions();
    let ready = conditions.iter().all(|condition| condition.reason.is_none());
    let listed: Vec<_> = conditions
        .iter()
        .map(|condition| {
            serde_json::json!({
                "name": condition.name,
                "holds": condition.reason.is_none(),
                "reason": condition.reason,
            })
        })
        .collect();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let report = serde_json::json!({
        "service": context.service,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": ready,
        "conditions": listed,
    });
    (code, Json(report))
}

async fn metrics(State(context): State<Context>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, OPEN_METRICS)], context.metrics.encode())
}
