//! THE inbound stack: what every request passes before the gateway does any work for it.

pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod quota;
pub(crate) mod tenant;
mod watched;

use tower::{Layer, ServiceBuilder};
use weft_runtime::server::Routes;

use crate::latency::{LatencyLayer, Timed};
use admission::{Admission, Arrivals};
use auth::{Auth, Authenticated};

/// The stack around our services.
///
/// Outside of it stand the layers that every process has: trace (one span per call, joined to the caller's trace;
/// outermost, so that it sees every refusal), status (a failure becomes an answer), deadline (everything below can ask
/// what is left) and metrics. How much a tenant may use of a model (quota) is decided where the model is known: first in
/// the pipeline.
pub(crate) fn stack(
    latency: LatencyLayer,
    auth: &Auth,
    admission: &Admission,
) -> impl Layer<Routes, Service = Timed<Authenticated<Arrivals<Routes>>>> + use<> {
    ServiceBuilder::new()
        // Where the time goes, from here to the trailers. First, so that whatever is below is part of it.
        .layer(latency)
        // Who is asking, and may they. Early, since nothing may be spent on strangers.
        .layer(auth.layer())
        // Is there room for another request at all, whatever it asks. Its place is held until the last token, not until
        // the headers. What it asks is weighed where it is understood: in `Admission::admit`.
        .layer(admission.layer())
        .into_inner()
}
