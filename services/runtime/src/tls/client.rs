//! Whom we trust when we call, and who we are then.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::{
    ALPN, ClientTls, certificate,
    files::{Pem, TlsError},
    provider,
};
use crate::status::chain;

/// Trust and identity of one client. The files are read for each new connection, so that a renewal needs no restart.
#[derive(Debug)]
pub(crate) struct ClientIdentity {
    files: ClientTls,
    name: ServerName<'static>,
    /// The newest that was usable.
    config: ArcSwap<ClientConfig>,
}

impl ClientIdentity {
    /// Reads the files. `host` names the peer where `server_name` does not.
    ///
    /// # Errors
    /// Anything that makes them unusable.
    pub(crate) fn load(files: ClientTls, host: &str) -> Result<Self, TlsError> {
        let name = files.server_name.clone().unwrap_or_else(|| host.to_owned());
        let name = ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName { name })?;
        let config = ArcSwap::new(build(&files)?);
        Ok(Self { files, name, config })
    }

    /// Shakes hands.
    pub(crate) async fn connect<IO>(&self, io: IO) -> std::io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        match build(&self.files) {
            Ok(config) => self.config.store(config),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "TLS files are not usable; the last good ones stay in use"
                );
            }
        }
        TlsConnector::from(self.config.load_full()).connect(self.name.clone(), io).await
    }
}

fn build(files: &ClientTls) -> Result<Arc<ClientConfig>, TlsError> {
    let ca = Pem::read(&files.ca)?;
    let versions = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| ca.unusable(source))?;
    let trust = versions.with_root_certificates(ca.authorities()?);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let pem = Pem::read(certificate)?;
            let chain = pem.certificates()?;
            certificate::end_of(&pem, &chain)?;
            let key = Pem::read(key)?.key()?;
            trust.with_client_auth_cert(chain, key).map_err(|source| pem.unusable(source))?
        }
        _ => trust.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
