//! A process on sockets and signals.

use std::{io::Write as _, process::ExitCode};

use tokio::net::TcpListener;

use super::{BoxError, Context, Process, RuntimeConfig, signals::Signals};
use crate::{
    Services, admin,
    server::{
        ServerConfig,
        door::{bind, connections},
    },
    status,
    telemetry::Telemetry,
};

/// Builds the tokio runtime and lives on it.
pub(super) fn run<Fut, E>(
    service: &'static str,
    config: RuntimeConfig,
    start: impl FnOnce(Context) -> Fut,
) -> ExitCode
where
    Fut: Future<Output = Result<Services, E>>,
    E: Into<BoxError>,
{
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.worker_threads {
        builder.worker_threads(threads);
    }
    match builder.enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(live(service, config, start));
            // A blocking task that hangs must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "cannot start tokio: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn live<Fut, E>(
    service: &'static str,
    config: RuntimeConfig,
    start: impl FnOnce(Context) -> Fut,
) -> ExitCode
where
    Fut: Future<Output = Result<Services, E>>,
    E: Into<BoxError>,
{
    let process = Process::new(service, config.clone());
    let telemetry = match Telemetry::start(service, &config.telemetry, &process.context().metrics) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "cannot start telemetry: {}", status::chain(&*error));
            return ExitCode::FAILURE;
        }
    };
    log_panics();
    let ended = serve(process, &config.server, start).await;
    match &ended {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::error!(error = status::chain(&**error), "stopped"),
    }
    telemetry.flush().await;
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A panic is a line of the log like any other, with the trace in which it happened.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, "panic");
    }));
}

async fn serve<Fut, E>(
    process: Process,
    config: &ServerConfig,
    start: impl FnOnce(Context) -> Fut,
) -> Result<(), BoxError>
where
    Fut: Future<Output = Result<Services, E>>,
    E: Into<BoxError>,
{
    let mut signals = Signals::listen()?;
    let Sockets { grpc, admin } = Sockets::bind(config).await?;
    let addresses = (grpc.local_addr()?, admin.as_ref().map(TcpListener::local_addr).transpose()?);
    let context = process.context().clone();
    let (service, version) = (context.service, env!("CARGO_PKG_VERSION"));
    let admin_address = addresses.1.map_or("none".to_owned(), |address| address.to_string());
    tracing::info!(service, version, listen = %addresses.0, admin = admin_address, "starting");
    if let Some(listener) = admin {
        admin::serve(&context, listener);
    }
    let (first, stop) = tokio::sync::oneshot::channel::<()>();
    let stop = async { stop.await.unwrap_or_default() };
    let life = process.run(start(context), connections(grpc), stop);
    let stopped_at_once = async {
        tracing::info!(signal = signals.next().await, "told to stop");
        // The life may have ended already: then nobody listens.
        let _ = first.send(());
        Err(format!("stopped at once by a second signal, {}", signals.next().await).into())
    };
    tokio::select! {
        ended = life => ended,
        ended = stopped_at_once => ended,
    }
}

/// The ports of a process, bound.
struct Sockets {
    grpc: TcpListener,
    admin: Option<TcpListener>,
}

impl Sockets {
    async fn bind(config: &ServerConfig) -> Result<Self, BoxError> {
        let listen = config.listen.ok_or("server.listen is missing")?;
        let grpc = bind("server.listen", listen).await?;
        let admin = match config.admin {
            Some(address) => Some(bind("server.admin", address).await?),
            None => None,
        };
        Ok(Self { grpc, admin })
    }
}
