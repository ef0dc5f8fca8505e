//! Opening a connection: a socket or a pipe, with TLS or without.

use tokio::net::TcpStream;

use std::sync::Arc;

use super::{ClientConfig, Target};
use crate::{BoxError, server::accept::Connection, tls::ClientIdentity};

/// Knows the way to a peer.
#[derive(Clone, Debug)]
pub(super) struct Way {
    target: Target,
    /// `http` or `https`, host and port: what requests say of whom they are for.
    pub(super) origin: http::Uri,
    tls: Option<Arc<ClientIdentity>>,
}

impl Way {
    /// # Errors
    /// An address without a scheme of ours or without a host; TLS files that are not usable.
    pub(super) fn to(target: Target, config: &ClientConfig) -> Result<Self, BoxError> {
        let origin = match &target {
            Target::Uri(uri) | Target::Resolved { origin: uri, .. } => origin(uri)?,
            Target::Pipe(_) => http::Uri::from_static("http://pipe"),
        };
        let tls = config.tls.clone().map(|files| ClientIdentity::load(files, host(&origin)));
        Ok(Self { tls: tls.transpose()?.map(Arc::new), target, origin })
    }

    /// Opens a connection, TLS included.
    pub(super) async fn open(&self) -> Result<Box<dyn Connection>, BoxError> {
        let io = self.open_plain().await?;
        match &self.tls {
            Some(identity) => Ok(Box::new(identity.connect(io).await?)),
            None => Ok(io),
        }
    }

    async fn open_plain(&self) -> Result<Box<dyn Connection>, BoxError> {
        match &self.target {
            Target::Pipe(connector) => Ok(Box::new(connector.connect()?)),
            Target::Uri(_) => plain(TcpStream::connect((host(&self.origin), self.port())).await?),
            Target::Resolved { address, .. } => plain(TcpStream::connect(address).await?),
        }
    }

    /// For people: `127.0.0.1:50061`.
    pub(super) fn address(&self) -> String {
        match &self.target {
            Target::Uri(uri) => uri.authority().map(ToString::to_string).unwrap_or_default(),
            Target::Resolved { address, .. } => address.to_string(),
            Target::Pipe(_) => "a pipe".to_owned(),
        }
    }

    fn port(&self) -> u16 {
        self.origin.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 })
    }
}

fn plain(socket: TcpStream) -> Result<Box<dyn Connection>, BoxError> {
    socket.set_nodelay(true)?;
    Ok(Box::new(socket))
}

/// Without the brackets of an IPv6 address.
fn host(origin: &http::Uri) -> &str {
    let host = origin.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn origin(uri: &http::Uri) -> Result<http::Uri, BoxError> {
    let scheme = uri.scheme_str().unwrap_or_default();
    let known = matches!(scheme, "http" | "https");
    match uri.authority() {
        Some(authority) if known => {
            let origin = http::Uri::builder().scheme(scheme).authority(authority.clone()).path_and_query("/");
            Ok(origin.build()?)
        }
        _ => {
            Err(format!("{uri} is no address of a peer; must be http://host:port or https://host:port")
                .into())
        }
    }
}
