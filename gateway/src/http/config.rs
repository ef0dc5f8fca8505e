//! `[http]`: the door for callers who speak OpenAI's HTTP API.

use std::net::{Ipv4Addr, SocketAddr};

use weft_runtime::config::{FromConfig, Section, any};

/// The port that most servers of this API have.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// What the HTTP door is told. Its bounds (connections, bodies, deadlines) and its TLS are those of `[server]`.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// Whether there is one.
    pub(crate) enabled: bool,
    /// Its address.
    pub(crate) listen: SocketAddr,
}

impl FromConfig for Http {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            enabled: section.value("enabled", true, any()),
            listen: section.value("listen", LISTEN, any()),
        }
    }
}
