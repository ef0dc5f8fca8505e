//! The gateway: Weft's front door. Text in, text out; it alone knows tokenizer, inference and safety filter.
//!
//! Map: `config`, `error` (one enum, one code for each), `inbound` (THE inbound stack), `grpc` (the public API), `http`
//! (OpenAI's), `request` and `answer` (the same in our own words, and the rules of their fields), `pipeline` (a request's story, stage by
//! stage), `outbound` (THE outbound stack, and a client for each service), `discovery` (who the replicas are, where Kubernetes
//! knows), `models` (what is served, and whether the services fit together), `readiness` (whether they are there), `latency` (what
//! a caller is kept waiting by), `metrics`.
//!
//! Rules: generated types stop at `grpc` and `outbound`; nothing reaches a caller that the safety filter has not cleared,
//! and a filter that cannot be asked is `UNAVAILABLE`; a refusal by the filter is an answer; dropping a caller's stream
//! drops everything behind it; what bounds something stands in the configuration.

mod answer;
mod config;
mod discovery;
mod error;
mod grpc;
mod http;
mod inbound;
mod latency;
mod metrics;
mod models;
mod outbound;
mod pipeline;
mod readiness;
mod request;

pub use config::Config;
pub use outbound::Targets;

use std::sync::Arc;

use weft_proto::{
    gateway::v1::gateway_service_server::GatewayServiceServer,
    kserve::grpc_inference_service_server::GrpcInferenceServiceServer,
};
use weft_runtime::{BoxError, Context, Services, server::Incoming};

use crate::{
    discovery::Discovery,
    error::Peer,
    grpc::{Gateway, kserve::OpenInference},
    http::Desk,
    inbound::{admission::Admission, auth::Auth, quota::Quotas},
    latency::{LatencyLayer, LatencyMetrics},
    metrics::Metrics,
    models::Models,
    outbound::Outbound,
    pipeline::{Doors, Pipeline},
};

/// Starts the gateway in front of the services that its configuration names.
///
/// # Errors
/// An address, a certificate, a keys file or a limits file that is not usable; an address in Kubernetes where nothing says
/// in which. A service that is not there is no error: the gateway is not ready until it is.
pub async fn start(config: Config, context: Context) -> Result<Services, BoxError> {
    let mut discovery = Discovery::new(&context);
    let targets = Targets {
        tokenizer: discovery.members(Peer::Tokenizer, &config.tokenizer).await?,
        inference: discovery.members(Peer::Inference, &config.inference).await?,
        safety: discovery.members(Peer::Safety, &config.safety).await?,
    };
    let http = match &config.http {
        door if door.enabled => Some(Incoming::listen("http.listen", door.listen).await?),
        _ => None,
    };
    start_with(config, context, targets, http).await
}

/// Starts the gateway in front of these services, wherever the configuration says that they are, with callers of the HTTP
/// API from wherever they come: the whole mesh in one process.
///
/// # Errors
/// As [`start`].
#[expect(clippy::unused_async, reason = "what starts a process may wait, and `start` is given to one")]
pub async fn start_with(
    config: Config,
    context: Context,
    targets: Targets,
    http: Option<Incoming>,
) -> Result<Services, BoxError> {
    let metrics = Metrics::new(&context.metrics);
    let auth = Auth::new(&config.auth, &context, &metrics)?;
    let quotas = Quotas::new(&config.quota, &context, &metrics)?;
    let outbound = Outbound::new(&config, &context, targets, &metrics)?;
    let models = Models::new(outbound.clone(), config.readiness.allow_unknown_vocabulary);
    readiness::watch(&config, &context, &outbound, &models);
    let admission = Admission::new(&config.admission, &context.metrics);
    let latency = LatencyLayer::new(LatencyMetrics::new(&context.metrics));
    let stack = inbound::stack(latency, &auth, &admission);
    let doors = Doors { quotas, admission };
    let pipeline = Arc::new(Pipeline::new(&config, outbound, models.clone(), doors, metrics));
    let desk =
        Desk::new(pipeline.clone(), models.clone(), config.limits.clone(), context.limits.max_message_bytes);
    let gateway = Gateway::new(pipeline, models, config.limits);
    let kserve = OpenInference::new(gateway.clone(), context.health);
    // The process bounds messages itself, by `server.max_message_bytes`.
    let gateway = GatewayServiceServer::new(gateway).max_decoding_message_size(usize::MAX);
    let kserve = GrpcInferenceServiceServer::new(kserve).max_decoding_message_size(usize::MAX);
    let services = Services::new().add(gateway).add(kserve).layer(stack).housekeeping_layer(auth.layer());
    Ok(match http {
        Some(incoming) => services.door(http::door(incoming, desk)),
        None => services,
    })
}
