//! TLS on both sides: who we are, whom we trust, and certificates that change while we run.
//!
//! Map: `files` (PEM on disk), `certificate` (what X.509 says), `server` (identity, reload, who calls), `client`
//! (trust, identity for mutual TLS).
//!
//! Rules: a certificate that is expired or unreadable never replaces one that works; when the one in use ends is a
//! metric; both sides speak TLS 1.2 or 1.3, with `h2` only but
//! at a door for other callers.

mod certificate;
mod client;
mod files;
mod server;

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

pub(crate) use self::{client::ClientIdentity, server::ServerIdentity};
pub use self::{files::TlsError, server::PeerIdentity};
use crate::config::{FromConfig, Section, any, not_empty};

/// `[server.tls]`: serve TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// `certificate`: PEM file of the chain, leaf first.
    pub certificate: PathBuf,
    /// `key`: PEM file of its private key.
    pub key: PathBuf,
    /// `client_ca`: PEM file of the authorities that may vouch for callers. Set: only callers with a certificate are
    /// let in (mutual TLS).
    pub client_ca: Option<PathBuf>,
}

/// `[….tls]` of a peer: call it with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// `ca`: PEM file of the authorities that may vouch for the peer.
    pub ca: PathBuf,
    /// `certificate`: PEM file of our own chain, for mutual TLS.
    pub certificate: Option<PathBuf>,
    /// `key`: PEM file of its private key.
    pub key: Option<PathBuf>,
    /// `server_name`: the name in the peer's certificate, where it is not the host of its address.
    pub server_name: Option<String>,
}

impl FromConfig for ServerTls {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            certificate: section.required("certificate", any()),
            key: section.required("key", any()),
            client_ca: section.optional("client_ca", any()),
        }
    }
}

impl FromConfig for ClientTls {
    fn from_config(section: &mut Section<'_>) -> Self {
        let tls = Self {
            ca: section.required("ca", any()),
            certificate: section.optional("certificate", any()),
            key: section.optional("key", any()),
            server_name: section.optional("server_name", not_empty()),
        };
        match (&tls.certificate, &tls.key) {
            (Some(path), None) => {
                section.problem("certificate", path.display(), "must have a `key` beside it")
            }
            (None, Some(path)) => {
                section.problem("key", path.display(), "must have a `certificate` beside it")
            }
            _ => {}
        }
        tls
    }
}

/// The one that tonic's TLS uses too. Named, so that nothing depends on a process-wide default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The only protocol that is spoken inside.
const ALPN: &[u8] = b"h2";
