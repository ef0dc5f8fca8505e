//! A process's life: config → telemetry → bind → start → serve → drain → flush.

use std::process::ExitCode;
use crate::{Services, Tasks, config::FromConfig, drain::Drain, health::Health, metrics::Metrics};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a service is given to live with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    /// The service's name, such as `tokenizer`.
    pub service: &'static str,
    /// Where its metrics go.
    pub metrics: Metrics,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// What must hold before it serves.
    pub health: Health,
    /// Where in its life the process is.
    pub drain: Drain,
}

/// Runs a service until it is told to stop (SIGTERM, SIGINT) and drained.
///
/// The admin port and the gRPC port are bound before `start` runs; until it returns, health is NOT_SERVING and every other
/// call is answered `UNAVAILABLE`. Exit codes: 0 after a clean drain, 64 for a configuration that is not usable, 1 otherwise.
pub fn main<C, F, Fut, E>(_service: &'static str, _start: F) -> ExitCode
where
    C: FromConfig,
    F: FnOnce(C, Context) -> Fut,
    Fut: Future<Output = Result<Services, E>>,
    E: Into<BoxError>,
{
    unimplemented!()
}
