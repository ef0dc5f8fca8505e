//! A further door of a process, for callers who do not speak gRPC.
//!
//! Behind it stands what stands behind the first: the same layers, the service's own stack, deadlines, drain and TLS. In
//! there, calls end with a gRPC status, in headers or trailers. What callers at this door say and hear instead is for the
//! door's `edge` to translate, outside of everything else.

use std::{io, net::SocketAddr};

use futures::{
    StreamExt as _,
    stream::{BoxStream, Stream},
};
use http::{Request, Response};
use std::convert::Infallible;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tower::{Layer, Service, util::BoxCloneSyncService};

use super::{Routes, accept::Connection};
use crate::BoxError;

/// What a call is named in spans and metrics: `POST /v1/models`. In the extensions of calls whose path is no gRPC method;
/// from a fixed list, since it becomes a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation(pub &'static str);

/// Connections as they come in.
pub struct Incoming(BoxStream<'static, io::Result<Box<dyn Connection>>>);

impl Incoming {
    /// Listens on sockets. `key` is the setting that names the address.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn listen(key: &str, address: SocketAddr) -> Result<Self, BoxError> {
        Ok(Self::of(connections(bind(key, address).await?)))
    }

    /// Takes connections from wherever they come.
    pub fn of<C: Connection>(connections: impl Stream<Item = io::Result<C>> + Send + 'static) -> Self {
        let boxed = |connection: C| -> Box<dyn Connection> { Box::new(connection) };
        Self(connections.map(move |accepted| accepted.map(boxed)).boxed())
    }

    pub(crate) fn into_stream(self) -> BoxStream<'static, io::Result<Box<dyn Connection>>> {
        self.0
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// A further door. It opens when the service has started, and speaks HTTP/1.1 and HTTP/2.
pub struct Door {
    pub(crate) incoming: Incoming,
    pub(crate) routes: Routes,
    pub(crate) edge: Box<dyn FnOnce(Routes) -> Routes + Send>,
}

impl Door {
    /// What answers there, and what translates on the outside of all layers.
    pub fn new<L>(incoming: Incoming, routes: Routes, edge: L) -> Self
    where
        L: Layer<Routes> + Send + 'static,
        L::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
    {
        Self { incoming, routes, edge: Box::new(move |routes| BoxCloneSyncService::new(edge.layer(routes))) }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

/// Takes an address, or says whose setting cannot be had.
pub(crate) async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, BoxError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{key} = {address} is in use by another process").into(),
        _ => format!("{key} = {address} cannot be bound: {error}").into(),
    })
}

/// The connections of a socket.
pub(crate) fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    TcpListenerStream::new(listener).map(|accepted| {
        accepted.inspect(|socket| {
            // Tokens are small and each is awaited. A socket that refuses still works.
            let _ = socket.set_nodelay(true);
        })
    })
}
