//! Channels.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A channel that connects with the first call. `ca` is a PEM file of authorities to trust, for `https` addresses.
///
/// # Errors
/// The address is no address, or the file cannot be used.
pub(crate) fn channel(address: &str, ca: Option<&Path>) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .with_context(|| format!("`{address}` is not an address; must be like http://127.0.0.1:50051"))?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .user_agent(concat!("weft/", env!("CARGO_PKG_VERSION")))?;
    let endpoint = match ca {
        Some(file) => {
            let pem = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint.tls_config(tls).with_context(|| format!("{} cannot be used", file.display()))?
        }
        None => endpoint,
    };
    Ok(endpoint.connect_lazy())
}
