//! A process's life: config → telemetry → bind → start → serve → drain → flush.
//!
//! [`main()`] is that life on sockets and signals. [`Process`] is the same life on anything else, such as the pipes of
//! a mesh in one test process:
//!
//! ```
//! use weft_proto::tokenizer::v1::{GetTokenizerInfoRequest, tokenizer_service_client::TokenizerServiceClient};
//! use weft_runtime::{BoxError, Process, RuntimeConfig, Services, Tasks, client, pipe};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // Not the process's own tasks: its drain would wait for itself.
//! let mesh = Tasks::default();
//! let (connector, incoming) = pipe::pipe();
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let process = Process::new("tokenizer", RuntimeConfig::default());
//! let context = process.context().clone();
//! // A real service: `weft_tokenizer::start(config, context.clone())`.
//! let start = async { Ok::<_, BoxError>(Services::new()) };
//! let running = mesh.spawn("tokenizer", process.run(start, incoming, async { stopped.await.unwrap_or(()) }));
//! context.health.serving().await;
//!
//! let caller = Process::new("gateway", RuntimeConfig::default()).context().clone();
//! let target = client::Target::Pipe(connector.clone());
//! let channel = client::connect(&caller, "tokenizer", target, &client::ClientConfig::default())?;
//! let answer = TokenizerServiceClient::new(channel).get_tokenizer_info(GetTokenizerInfoRequest {}).await;
//! # assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented);
//!
//! stop.send(()).unwrap();
//! running.await??;
//! # Ok(())
//! # }
//! ```
//!
//! `connector.cut()` breaks what is open, `connector.refuse(true)` is a dead process, aborting the task is `kill -9`,
//! `connector.listen()` is the same address for a process that is started again.

mod arguments;
mod life;
mod observed;
mod signals;
mod sockets;

use std::process::ExitCode;

pub use self::life::Process;
use crate::{
    Services, Tasks,
    config::{self, FromConfig, Section, between},
    drain::{Drain, DrainConfig},
    failure::Failure,
    health::Health,
    layer,
    metrics::Metrics,
    server::{Limits, ServerConfig},
    telemetry::TelemetryConfig,
};

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
    /// Where it says that it cannot go on.
    pub failure: Failure,
    /// Bounds on calls: a service sets `max_message_bytes` on the servers that it builds.
    pub limits: Limits,
    /// Counts of the calls that the process makes, whatever the peer.
    pub(crate) calls_made: layer::metrics::Outgoing,
}

/// What the runtime itself reads from a service's file.
#[derive(Clone, Debug, Default)]
pub struct RuntimeConfig {
    /// `[server]`.
    pub server: ServerConfig,
    /// `[drain]`.
    pub drain: DrainConfig,
    /// `[telemetry]`.
    pub telemetry: TelemetryConfig,
    /// `runtime.worker_threads`: threads that run tasks. Absent: one a core.
    pub worker_threads: Option<usize>,
}

impl FromConfig for RuntimeConfig {
    fn from_config(root: &mut Section<'_>) -> Self {
        Self {
            server: root.section("server"),
            drain: root.section("drain"),
            telemetry: root.section("telemetry"),
            worker_threads: root.section::<Threads>("runtime").0,
        }
    }
}

struct Threads(Option<usize>);

impl FromConfig for Threads {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self(section.optional("worker_threads", between(1, 1024)))
    }
}

/// `EX_USAGE`: what was asked for cannot be done, and asking again will not help.
const EXIT_USAGE: u8 = 64;

/// Runs a service until it is told to stop (SIGTERM, SIGINT) or reports a [`Failure`], and drained.
///
/// The admin port and the gRPC port are bound before `start` runs; until it returns, health is NOT_SERVING and every other
/// call is answered `UNAVAILABLE`. Exit codes: 0 after a clean drain, 64 for a configuration that is not usable, 1 otherwise.
pub fn main<C, F, Fut, E>(service: &'static str, start: F) -> ExitCode
where
    C: FromConfig,
    F: FnOnce(C, Context) -> Fut,
    Fut: Future<Output = Result<Services, E>>,
    E: Into<BoxError>,
{
    let arguments = match arguments::read(service) {
        Ok(arguments) => arguments,
        Err(answer) => return answer,
    };
    let (runtime, config) = match config::load::<C>(&arguments.config, config::environment()) {
        Ok(usable) => usable,
        Err(problems) => return arguments::refuse(&problems),
    };
    if arguments.check {
        return arguments::usable(&arguments.config);
    }
    sockets::run(service, runtime, |context| start(config, context))
}
