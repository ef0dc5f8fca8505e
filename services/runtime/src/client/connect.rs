//! Opening a connection: a socket or a pipe.

use tokio::net::TcpStream;

use super::Target;
use crate::{BoxError, server::accept::Connection};

/// Knows the way to a peer.
#[derive(Clone, Debug)]
pub(super) struct Way {
    target: Target,
    /// `http` or `https`, host and port: what requests say of whom they are for.
    pub(super) origin: http::Uri,
}

impl Way {
    /// # Errors
    /// An address without a scheme of ours or without a host.
    pub(super) fn to(target: Target) -> Result<Self, BoxError> {
        let origin = match &target {
            Target::Uri(uri) => origin(uri)?,
            Target::Pipe(_) => http::Uri::from_static("http://pipe"),
        };
        Ok(Self { target, origin })
    }

    pub(super) async fn open(&self) -> Result<Box<dyn Connection>, BoxError> {
        match &self.target {
            Target::Pipe(connector) => Ok(Box::new(connector.connect()?)),
            Target::Uri(_) => {
                let socket = TcpStream::connect((self.host(), self.port())).await?;
                socket.set_nodelay(true)?;
                Ok(Box::new(socket))
            }
        }
    }

    /// For people: `127.0.0.1:50061`.
    pub(super) fn address(&self) -> String {
        match &self.target {
            Target::Uri(uri) => uri.authority().map(ToString::to_string).unwrap_or_default(),
            Target::Pipe(_) => "a pipe".to_owned(),
        }
    }

    fn is_tls(&self) -> bool {
        self.origin.scheme() == Some(&http::uri::Scheme::HTTPS)
    }

    /// Without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        let host = self.origin.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    fn port(&self) -> u16 {
        self.origin.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }
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
