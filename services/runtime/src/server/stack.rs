//! What every incoming call passes, read from the outside in.

use std::convert::Infallible;

use tonic::body::Body;
use tower::{Layer as _, Service, ServiceBuilder, util::BoxCloneSyncService};

use super::{Limits, Routes, front::Front};
use crate::{
    drain::Drain,
    layer::{
        around,
        catch::CatchPanics,
        deadline,
        decode::Readable,
        in_flight::{CountAndCancel, InFlight},
        metrics, trace,
    },
};

/// The layers' shared state.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) metrics: metrics::Incoming,
    pub(crate) in_flight: InFlight,
    pub(crate) drain: Drain,
    pub(crate) limits: Limits,
}

/// The stack around a process's services.
pub(crate) fn stack(front: Front, parts: Parts) -> Routes {
    // Innermost, since it judges what tonic says of the bytes before anybody else has had a word.
    let readable = around(Readable { max_message_bytes: parts.limits.max_message_bytes });
    around_all(readable.layer(front), parts)
}

/// What every call passes, whatever it speaks: outcomes are statuses in here, of calls at a [`Door`](super::Door) too.
pub(crate) fn around_all<S>(inner: S, parts: Parts) -> Routes
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let Limits { default_deadline, max_deadline, .. } = parts.limits;
    let stack = ServiceBuilder::new()
        // One span a call; joins the caller's trace. Outermost, so it sees every refusal below.
        .layer(around(trace::Incoming))
        // Counts what the caller is told, whoever below decided it.
        .layer(around(parts.metrics))
        // Drain waits for what is inside here, and cancels it when it has waited long enough.
        .layer(around(CountAndCancel { in_flight: parts.in_flight, drain: parts.drain }))
        // How long we have. Everything below can ask `Deadline` for what is left.
        .layer(around(deadline::Incoming {
            limits: deadline::Limits { default: default_deadline, most: max_deadline },
        }))
        // A panic below is this call's INTERNAL; the layers above still count it.
        .layer(around(CatchPanics))
        .into_inner();
    BoxCloneSyncService::new(stack.layer(inner))
}
