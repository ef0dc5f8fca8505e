//! What a process serves, and the limits within which it does.
//!
//! Map: `accept` (connections, their bounds and their end), `front` (which service answers), `stack` (what every call
//! passes on the way), `door` (for callers who do not speak gRPC), `http1` (what their older protocol needs).

pub(crate) mod accept;
pub(crate) mod door;
pub(crate) mod front;
mod http1;
pub(crate) mod stack;

pub use self::door::{Door, Incoming, Operation};

use std::{collections::BTreeSet, convert::Infallible, net::SocketAddr, time::Duration};

use tonic::{body::Body, server::NamedService, service::RoutesBuilder};
use tower::{Layer, Service, util::BoxCloneSyncService};

use crate::{
    BoxError,
    config::{FromConfig, Section, any, at_least, between, positive},
    layer::rescue::RescueLayer,
    tls::ServerTls,
};

/// A whole server's worth of routes.
pub type Routes = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// The services of a process. Health and reflection are added by the process.
#[derive(Default)]
pub struct Services {
    names: BTreeSet<&'static str>,
    routes: RoutesBuilder,
    /// In the order in which they were asked for: each goes around those before it.
    stacks: Vec<Stack>,
    /// The same, around health and reflection.
    housekeeping: Vec<Stack>,
    doors: Vec<Door>,
}

/// Puts something around routes.
pub(crate) type Stack = Box<dyn Fn(Routes) -> Routes + Send>;

/// What a process serves, taken apart.
pub(crate) struct Parts {
    pub(crate) names: BTreeSet<&'static str>,
    pub(crate) routes: Routes,
    /// What stands around health and reflection once the service has started.
    pub(crate) housekeeping: Vec<Stack>,
    pub(crate) doors: Vec<Door>,
}

impl Services {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one. Its name is known to health from here on.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "nobody adds services with `+`")]
    pub fn add<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.insert(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Adds a door for callers who do not speak gRPC.
    #[must_use]
    pub fn door(mut self, door: Door) -> Self {
        self.doors.push(door);
        self
    }

    /// Puts a stack around all services and doors, inside the process's own layers (trace, deadline, metrics). An error of
    /// the stack becomes a status, see [`rescue`](crate::layer::rescue).
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Routes> + Send + 'static,
        L::Service:
            Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
        <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError>,
        <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    {
        self.stacks.push(stack_of(layer));
        self
    }

    /// Puts a stack around health and reflection, from the moment when the service has started. Before that there is
    /// nothing to protect, and whoever waits for it must be able to ask.
    #[must_use]
    pub fn housekeeping_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Routes> + Send + 'static,
        L::Service:
            Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
        <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError>,
        <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    {
        self.housekeeping.push(stack_of(layer));
        self
    }

    /// The names of the services.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.names.iter().copied()
    }

    pub(crate) fn into_parts(self) -> Parts {
        let around = |routes: Routes| self.stacks.iter().fold(routes, |routes, stack| stack(routes));
        let routes = around(BoxCloneSyncService::new(self.routes.routes().prepare()));
        let doors = self.doors.into_iter().map(|door| Door { routes: around(door.routes), ..door }).collect();
        Parts { names: self.names, routes, housekeeping: self.housekeeping, doors }
    }
}

fn stack_of<L>(layer: L) -> Stack
where
    L: Layer<Routes> + Send + 'static,
    L::Service: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
    <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError>,
    <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
{
    Box::new(move |routes| BoxCloneSyncService::new(RescueLayer.layer(layer.layer(routes))))
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services")
            .field("names", &self.names)
            .field("stacks", &self.stacks.len())
            .field("doors", &self.doors.len())
            .finish()
    }
}

/// `[server]`: where the process listens and what it lets in.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `listen`: the gRPC address. A process on sockets must have one; port 0 takes any free one.
    pub listen: Option<SocketAddr>,
    /// `admin`: the address of `/metrics`, `/livez` and `/readyz`. Absent: not served.
    pub admin: Option<SocketAddr>,
    /// `[server.tls]`: absent, the port speaks plain text.
    pub tls: Option<ServerTls>,
    /// The limits, which services may ask for too.
    pub limits: Limits,
    /// `max_connections`: how many may be open; a further one waits in the kernel's queue.
    pub max_connections: usize,
    /// `max_concurrent_streams`: how many calls one connection may have open.
    pub max_concurrent_streams: u32,
    /// `max_header_bytes`: the largest header list of a call.
    pub max_header_bytes: u32,
    /// `keepalive_interval`: how often a silent connection is pinged.
    pub keepalive_interval: Duration,
    /// `keepalive_timeout`: how long a ping may go unanswered before the connection is closed.
    pub keepalive_timeout: Duration,
}

/// Bounds on calls, read from `[server]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max_message_bytes`: the largest message that is read. Services pass it to `max_decoding_message_size`.
    pub max_message_bytes: usize,
    /// `default_deadline`: for a call that has none.
    pub default_deadline: Duration,
    /// `max_deadline`: what a call that asks for more gets.
    pub max_deadline: Duration,
}

/// gRPC's own default: a prompt is kilobytes, and what is larger is refused before it is buffered.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// A long answer of a small model takes tens of seconds; nobody waits longer without saying so.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(120);
/// The longest answer that is worth its KV blocks.
const MAX_DEADLINE: Duration = Duration::from_secs(600);
/// Peers multiplex, so each needs one. Below the usual limit of 1024 open files.
const MAX_CONNECTIONS: usize = 900;
/// One gateway carries many users over one connection.
const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// hyper's default; metadata of a call is a key and a trace.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Finds a peer that died without a word within half a minute, and stays below the pings that proxies object to.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A machine that cannot answer a ping for this long does not serve either.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: MAX_MESSAGE_BYTES,
            default_deadline: DEFAULT_DEADLINE,
            max_deadline: MAX_DEADLINE,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: None,
            admin: None,
            tls: None,
            limits: Limits::default(),
            max_connections: MAX_CONNECTIONS,
            max_concurrent_streams: MAX_CONCURRENT_STREAMS,
            max_header_bytes: MAX_HEADER_BYTES,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
        }
    }
}

impl FromConfig for ServerConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let limits = read_limits(section);
        Self {
            listen: section.optional("listen", any()),
            admin: section.optional("admin", any()),
            tls: section.optional_section("tls"),
            limits,
            max_connections: section.value("max_connections", MAX_CONNECTIONS, between(1, 1_000_000)),
            max_concurrent_streams: section.value(
                "max_concurrent_streams",
                MAX_CONCURRENT_STREAMS,
                at_least(1),
            ),
            max_header_bytes: section.value("max_header_bytes", MAX_HEADER_BYTES, between(1024, 1024 * 1024)),
            keepalive_interval: section.value("keepalive_interval", KEEPALIVE_INTERVAL, positive()),
            keepalive_timeout: section.value("keepalive_timeout", KEEPALIVE_TIMEOUT, positive()),
        }
    }
}

fn read_limits(section: &mut Section<'_>) -> Limits {
    let limits = Limits {
        max_message_bytes: section.value(
            "max_message_bytes",
            MAX_MESSAGE_BYTES,
            between(1024, 1024 * 1024 * 1024),
        ),
        default_deadline: section.value("default_deadline", DEFAULT_DEADLINE, positive()),
        max_deadline: section.value("max_deadline", MAX_DEADLINE, positive()),
    };
    if limits.default_deadline > limits.max_deadline {
        let rule =
            format!("must be at most max_deadline ({})", humantime::format_duration(limits.max_deadline));
        section.problem("default_deadline", humantime::format_duration(limits.default_deadline), rule);
    }
    limits
}
