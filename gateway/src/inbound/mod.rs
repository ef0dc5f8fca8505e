//! THE inbound stack: what every request passes before the gateway does any work for it.

pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod quota;
pub(crate) mod tenant;
mod watched;

use tower::{Layer, ServiceBuilder};
use weft_runtime::server::Routes;

use crate::{config::Config, metrics::Metrics};
use admission::Admission;
use auth::{Auth, Authenticated};

/// The stack around our services.
///
/// Outside of it stand the layers that every process has: trace (one span per call, joined to the caller's trace;
/// outermost, so that it sees every refusal), status (a failure becomes an answer), deadline (everything below can ask
/// what is left) and metrics. How much a tenant may use of a model (quota) is decided where the model is known: first in
/// the pipeline.
pub(crate) fn stack(
    config: &Config,
    auth: &Auth,
    metrics: &Metrics,
) -> impl Layer<Routes, Service = Authenticated<Admission<Routes>>> + use<> {
    ServiceBuilder::new()
        // Who is asking, and may they. First, since nothing may be spent on strangers.
        .layer(auth.layer())
        // Is there room. The permit is held until the last token, not until the headers.
        .layer(admission::layer(&config.admission, metrics))
        .into_inner()
}
