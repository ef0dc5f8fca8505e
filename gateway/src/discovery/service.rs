//! `kubernetes://NAMESPACE/SERVICE:PORT`.
//!
//! The namespace stands where a URL has its host because it is what a Service belongs to and what a Role is for, and it is
//! never guessed: the same configuration means the same in every namespace. The port stands where it always does.

use std::fmt;

use weft_runtime::client::ClientConfig;

const SCHEME: &str = "kubernetes";
const FORM: &str = "must be kubernetes://NAMESPACE/SERVICE:PORT, where PORT is the port's name or the number on which \
                    the pods listen";
/// The longest name of anything in Kubernetes that is a DNS label.
const LABEL: usize = 63;

/// A Service in Kubernetes, and one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: Port,
    /// Whether its pods are called with TLS.
    tls: bool,
}

/// A port of a Service, as its pods have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Whatever number each pod has for this name.
    Named(String),
    /// This number.
    Number(u16),
}

/// Whether an address is of this form, or means to be.
pub(super) fn is_one(address: &http::Uri) -> bool {
    address.scheme_str() == Some(SCHEME)
}

/// The Service that stands where addresses could, if any does.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn of(config: &ClientConfig) -> Result<Option<Service>, String> {
    let Some(address) = config.addresses.iter().find(|address| is_one(address)) else { return Ok(None) };
    if config.addresses.len() > 1 {
        return Err("must stand alone: it names all replicas".to_owned());
    }
    if config.resolve_every.is_some() {
        return Err("must have no resolve_every beside it: what changes is told at once".to_owned());
    }
    parse(address, config.tls.is_some()).map(Some).ok_or_else(|| FORM.to_owned())
}

fn parse(address: &http::Uri, tls: bool) -> Option<Service> {
    let namespace = address.authority()?.as_str();
    let (name, port) = address.path().strip_prefix('/')?.split_once(':')?;
    let whole = address.query().is_none() && [namespace, name, port].into_iter().all(is_label);
    let port = match port.parse() {
        Ok(0) => return None,
        Ok(number) => Port::Number(number),
        Err(_) if port.bytes().all(|byte| byte.is_ascii_digit()) => return None,
        Err(_) => Port::Named(port.to_owned()),
    };
    whole.then(|| Service { namespace: namespace.to_owned(), name: name.to_owned(), port, tls })
}

/// RFC 1123, as Kubernetes has it.
fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl Service {
    /// The name that its pods are called by: certificates have this one.
    pub(super) fn origin(&self, port: u16) -> Result<http::Uri, http::Error> {
        let scheme = if self.tls { "https" } else { "http" };
        let authority = format!("{}.{}.svc:{port}", self.name, self.namespace);
        http::Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}://{}/{}:{}", self.namespace, self.name, self.port)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Number(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(addresses: &[&str]) -> ClientConfig {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        ClientConfig { addresses, ..ClientConfig::default() }
    }

    #[test]
    fn a_service_is_named_with_its_port_by_name_or_number() {
        let named = of(&at(&["kubernetes://weft/inference:grpc"])).unwrap().unwrap();
        assert_eq!(named.port, Port::Named("grpc".to_owned()));
        assert_eq!(named.to_string(), "kubernetes://weft/inference:grpc");
        assert_eq!(named.origin(50062).unwrap(), "http://inference.weft.svc:50062/");
        let numbered = of(&at(&["kubernetes://weft/inference:50062"])).unwrap().unwrap();
        assert_eq!(numbered.port, Port::Number(50062));
        assert_eq!(of(&at(&["http://127.0.0.1:50062"])), Ok(None));
    }

    #[test]
    fn what_is_no_service_is_refused() {
        for address in [
            "kubernetes://weft/inference",
            "kubernetes://weft:80/inference:grpc",
            "kubernetes://weft/inference:0",
            "kubernetes://weft/inference:65536",
            "kubernetes://weft/inference:",
            "kubernetes://weft/-inference:grpc",
            "kubernetes://weft/inference:grpc/more",
            "kubernetes://weft/inference:grpc?more",
            "kubernetes://weft",
        ] {
            assert_eq!(of(&at(&[address])), Err(FORM.to_owned()), "{address}");
        }
        let one = "kubernetes://weft/inference:grpc";
        assert!(of(&at(&["http://127.0.0.1:50062", one])).unwrap_err().contains("alone"));
        let resolved = ClientConfig { resolve_every: Some(Duration::from_secs(1)), ..at(&[one]) };
        assert!(of(&resolved).unwrap_err().contains("resolve_every"));
    }
}
