//! THE inbound stack: what every request passes before the gateway does any work for it.

pub(crate) mod admission;
pub(crate) mod tenant;

use tower::Layer;
use weft_runtime::server::Routes;

use crate::{config::Config, metrics::Metrics};

/// The stack around our services.
///
/// Outside of it stand the layers that every process has: trace (one span per call, joined to the caller's trace;
/// outermost, so that it sees every refusal), status (a failure becomes an answer), deadline (everything below can ask
/// what is left) and metrics. Who is asking (auth) and how much they may ask for (quota) stand first in here, before
/// anything that costs.
pub(crate) fn stack(
    config: &Config,
    metrics: &Metrics,
) -> impl Layer<Routes, Service = admission::Admission<Routes>> + use<> {
    // Is there room. The permit is held until the last token, not until the headers.
    admission::layer(&config.admission, metrics)
}
