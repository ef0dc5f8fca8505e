//! The safety filter: text in, verdict and cleared text out. Knows no tokens and no models.
//!
//! Map: `config`; `policy` (the policy file, and policies ready to run) and `program` (one policy in one direction);
//! `reload` (a changed file without a restart); `detector` (secrets, data about persons, denied terms and
//! expressions); `window` (the heart: releases only text that every detector has finished with); `verdict` (the
//! words for outcomes); `metrics`; `error`; `grpc` (the only room with wire types).
//!
//! Rules: the outcome does not depend on how a text was cut; what cannot be decided is held, and what cannot be held
//! is acted upon; a finding, a log line and a span never carry text; time and memory are bounded by the text's length
//! and by [`config::Limits`].

pub mod config;
mod detector;
pub mod error;
mod grpc;
pub mod metrics;
pub mod policy;
mod program;
pub mod reload;
pub mod verdict;
pub mod window;

use weft_runtime::{Context, Services};

pub use config::Config;
pub use error::Error;
pub use program::Program;

/// Loads the policies, keeps them up to date, and serves.
///
/// # Errors
/// A policy file that cannot be read, or all that is wrong with it.
pub async fn start(config: Config, context: Context) -> Result<Services, Error> {
    let metrics = metrics::Metrics::register(&context.metrics);
    let Config { policy, window, limits } = config;
    let source = reload::Source::open(policy.file, window.max_hold_bytes, metrics.clone()).await?;
    let service = grpc::service(source.in_force(), limits, metrics);
    context.tasks.spawn("policy reload", source.watch(policy.check_every, context.drain.clone()));
    Ok(Services::new().add(service))
}
