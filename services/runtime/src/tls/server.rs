//! A server's identity, which changes when its files do.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, server::WebPkiClientVerifier},
    server::TlsStream,
};

use super::{
    ServerTls, certificate,
    files::{Pem, TlsError},
    provider,
};
use crate::{
    drain::{Drain, Phase},
    metrics::Metrics,
    status::chain,
};

/// How often the files are looked at. Certificates are renewed days before they end.
const CHECK_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

/// Who this server is.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    files: ServerTls,
    config: ArcSwap<ServerConfig>,
    /// What was tried last, whether it was usable or not: each change is judged once.
    tried: Mutex<Material>,
    ends: Gauge,
    reloads: Family<ReloadLabels, Counter>,
}

/// The bytes of all files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Material {
    certificate: Pem,
    key: Pem,
    client_ca: Option<Pem>,
}

impl Material {
    fn read(files: &ServerTls) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: Pem::read(&files.certificate)?,
            key: Pem::read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(Pem::read).transpose()?,
        })
    }

    /// The configuration, and when the certificate ends.
    fn build(&self) -> Result<(Arc<ServerConfig>, i64), TlsError> {
        let chain = self.certificate.certificates()?;
        let ends = certificate::end_of(&self.certificate, &chain)?;
        let versions = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| self.certificate.unusable(source))?;
        let callers = match &self.client_ca {
            None => versions.with_no_client_auth(),
            Some(pem) => {
                let trusted = Arc::new(pem.authorities()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider())
                    .build()
                    .map_err(|source| TlsError::Authorities { path: pem.path.clone(), source })?;
                versions.with_client_cert_verifier(verifier)
            }
        };
        let identity = callers.with_single_cert(chain, self.key.key()?);
        let config = identity.map_err(|source| self.certificate.unusable(source))?;
        Ok((Arc::new(config), ends))
    }
}

impl ServerIdentity {
    /// Reads the files.
    ///
    /// # Errors
    /// Anything that makes them unusable: a server does not start with that.
    pub(crate) fn load(files: ServerTls, metrics: &Metrics) -> Result<Self, TlsError> {
        let material = Material::read(&files)?;
        let (config, ends_at) = material.build()?;
        let (ends, reloads) = (Gauge::default(), Family::default());
        ends.set(ends_at);
        metrics.register(|registry| {
            let help = "When the certificate in use ends, in seconds since 1970";
            registry.register("weft_tls_certificate_end_timestamp_seconds", help, ends.clone());
            let help = "Changes of the TLS files, by what became of them";
            registry.register("weft_tls_reloads", help, reloads.clone());
        });
        Ok(Self { files, config: ArcSwap::new(config), tried: Mutex::new(material), ends, reloads })
    }

    /// Looks at the files until the process stops.
    pub(crate) async fn watch(self: Arc<Self>, drain: Drain) {
        let look = async {
            loop {
                tokio::time::sleep(CHECK_EVERY).await;
                self.refresh();
            }
        };
        tokio::select! {
            () = drain.reached(Phase::Draining) => {}
            () = look => {}
        }
    }

    /// Takes over what the files hold now, if it is new and usable.
    pub(crate) fn refresh(&self) {
        match self.take_over() {
            Ok(false) => {}
            Ok(true) => self.count("taken over"),
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "new TLS files are not usable; the old ones stay in use"
                );
                self.count("refused");
            }
        }
    }

    fn take_over(&self) -> Result<bool, TlsError> {
        // Between two writes of a renewal a file may be missing: the next look will tell.
        let Ok(found) = Material::read(&self.files) else { return Ok(false) };
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if *tried == found {
            return Ok(false);
        }
        *tried = found;
        let (config, ends) = tried.build()?;
        self.config.store(config);
        self.ends.set(ends);
        tracing::info!(certificate = %self.files.certificate.display(), ends, "new TLS certificate in use");
        Ok(true)
    }

    fn count(&self, outcome: &'static str) {
        self.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// Shakes hands, with the identity of this moment, to speak one of these protocols.
    pub(crate) async fn accept<IO>(&self, io: IO, protocols: &[&[u8]]) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = ServerConfig::clone(&self.config.load());
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config)).accept(io).await
    }
}

/// Who the caller is, by the certificate that it showed. In the extensions of every request on mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    names: Arc<[String]>,
}

impl PeerIdentity {
    /// DNS names, URIs (SPIFFE ids) and the common name in its certificate.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The identity of a request's caller, if it showed one.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }

    pub(crate) fn shown<IO>(stream: &TlsStream<IO>) -> Option<Self> {
        let leaf = stream.get_ref().1.peer_certificates()?.first()?;
        Some(Self { names: certificate::names(leaf).into() })
    }
}
