//! Connections: how many, how they are kept alive, how they end.
//!
//! The loop is ours and not tonic's, for three reasons: a connection and its calls are tasks that drain can name and
//! stop; TLS certificates change without a restart; and tonic's graceful shutdown waits forever.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tonic::body::Body;
use tower::ServiceExt as _;

use super::{Routes, ServerConfig, http1::Calls};
use crate::{
    drain::{Drain, Phase},
    flow,
    metrics::{Metrics, Raised},
    pipe::Pipe,
    status::chain,
    task::{CallExecutor, Limit, Tasks},
    tls::{PeerIdentity, ServerIdentity},
};

/// Bytes both ways, from somebody.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Who is at the other end, where it has an address.
    fn peer(&self) -> Option<SocketAddr>;
}

impl Connection for TcpStream {
    fn peer(&self) -> Option<SocketAddr> {
        self.peer_addr().ok()
    }
}

impl Connection for Box<dyn Connection> {
    fn peer(&self) -> Option<SocketAddr> {
        (**self).peer()
    }
}

impl<C: Connection> Connection for tokio_rustls::server::TlsStream<C> {
    fn peer(&self) -> Option<SocketAddr> {
        self.get_ref().0.peer()
    }
}

impl<C: Connection> Connection for tokio_rustls::client::TlsStream<C> {
    fn peer(&self) -> Option<SocketAddr> {
        self.get_ref().0.peer()
    }
}

impl Connection for Pipe {
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

/// Takes connections and serves calls on them until the process drains.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor {
    pub(crate) routes: Routes,
    pub(crate) speaks: Speaks,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) drain: Drain,
    /// The connections and their calls, apart from the service's own tasks: they end first.
    pub(crate) tasks: Tasks,
    pub(crate) tls: Option<Arc<ServerIdentity>>,
    pub(crate) metrics: ConnectionMetrics,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/2 only.
    Grpc,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

impl Speaks {
    /// As TLS names them, best first.
    fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Self::Grpc => &[b"h2"],
            Self::Http => &[b"h2", b"http/1.1"],
        }
    }
}

/// What is known of connections, as opposed to calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionMetrics {
    open: Gauge,
    handshakes_failed: Counter,
}

impl ConnectionMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            registry.register("weft_server_connections", "Connections that are open", this.open.clone());
            let help = "TLS handshakes that failed or took too long";
            registry.register("weft_server_handshakes_failed", help, this.handshakes_failed.clone());
        });
        this
    }
}

/// How long to leave an accept that failed alone: out of file descriptors is out for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What HTTP/1 needs to read at all.
const LEAST_BUFFER: usize = 8 * 1024;
/// How long a caller may take to shake hands: it holds one of `max_connections` meanwhile.
const HANDSHAKE: Duration = Duration::from_secs(5);

impl Acceptor {
    /// Accepts until [`Phase::Draining`], then drops the listener.
    pub(crate) async fn run<C: Connection>(self, incoming: impl Stream<Item = io::Result<C>> + Send) {
        let permits = Arc::new(Semaphore::new(self.config.max_connections));
        let mut incoming = std::pin::pin!(incoming);
        let accept = async {
            // The semaphore is never closed.
            while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                match incoming.next().await {
                    None => break,
                    Some(Ok(io)) => {
                        let connection = self.clone().connection(io);
                        self.tasks.spawn_root("connection", async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = self.drain.reached(Phase::Draining) => {}
            () = accept => {}
        }
    }

    /// Shakes hands, where TLS is on, and serves.
    async fn connection<C: Connection>(self, io: C) {
        let Some(identity) = self.tls.clone() else { return self.serve(io, None).await };
        let remote = io.peer();
        let why = match timeout(HANDSHAKE, identity.accept(io, self.speaks.protocols())).await {
            Ok(Ok(stream)) => {
                let caller = PeerIdentity::shown(&stream);
                return self.serve(stream, caller).await;
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "it took too long".to_owned(),
        };
        self.metrics.handshakes_failed.inc();
        tracing::debug!(?remote, error = why, "TLS handshake failed");
    }

    /// Serves one connection until its peer leaves or the process drains.
    async fn serve<C: Connection>(self, io: C, caller: Option<PeerIdentity>) {
        let remote = io.peer();
        let _open = Raised::new(self.metrics.open.clone());
        let routes = self.routes.map_request(move |request: http::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            // Where tonic's `Request::remote_addr` looks.
            request
                .extensions_mut()
                .insert(tonic::transport::server::TcpConnectInfo { local_addr: None, remote_addr: remote });
            if let Some(caller) = &caller {
                request.extensions_mut().insert(caller.clone());
            }
            request
        });
        let limit = Limit::default();
        if self.speaks == Speaks::Http {
            // Which protocol it is shows in the first bytes, and hyper waits for those as long as it takes.
            limit.set(Instant::now() + silence(&self.config));
        }
        let calls = Calls { inner: routes, limit: limit.clone(), drain: self.drain.clone() };
        let http = builder(&self.config, self.speaks, &self.tasks);
        let connection = http.serve_connection(TokioIo::new(io), TowerToHyperService::new(calls));
        let connection = async {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = self.drain.reached(Phase::Draining) => {
                    // Tells the peer to open no more calls here, and ends when the last one has.
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        match limit.hold(connection).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(error = chain(&*error), ?remote, "connection ended"),
            None => tracing::debug!(?remote, "a caller who did not read its answer was hung up on"),
        }
    }
}

/// How long a caller may say nothing where nothing can ask whether it is still there.
fn silence(config: &ServerConfig) -> Duration {
    config.keepalive_interval + config.keepalive_timeout
}

fn builder(config: &ServerConfig, speaks: Speaks, tasks: &Tasks) -> auto::Builder<CallExecutor> {
    let mut http = auto::Builder::new(CallExecutor(tasks.clone()));
    if speaks == Speaks::Grpc {
        http = http.http2_only();
    }
    http.http1()
        .timer(TokioTimer::new())
        // Also between two calls: a caller who is silent for longer connects again.
        .header_read_timeout(silence(config))
        .max_buf_size((config.max_header_bytes as usize).max(LEAST_BUFFER));
    http.http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(flow::STREAM_WINDOW)
        .initial_connection_window_size(flow::CONNECTION_WINDOW)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_header_list_size(config.max_header_bytes)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    http
}
