//! PEM files, and errors that name the file.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::{
    self, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

/// Why TLS material is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no PEM, or holds none of what is wanted.
    #[error("{path} holds no {wanted} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate is no X.509 certificate.
    #[error("{path} holds a certificate that cannot be parsed")]
    X509 {
        /// The file.
        path: PathBuf,
    },
    /// The certificate is not valid now.
    #[error("the certificate in {path} is valid from {from} to {to}, which is not now")]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// When it begins.
        from: String,
        /// When it ends.
        to: String,
    },
    /// The parts do not make an identity or a set of authorities: a key of another certificate, for example.
    #[error("{path} is not usable")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A set of authorities with nobody in it, or nobody usable.
    #[error("{path} holds no usable authority")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::server::VerifierBuilderError,
    },
    /// The name of the peer is no name.
    #[error("{name:?} is no host name or address that a certificate could name")]
    ServerName {
        /// The name.
        name: String,
    },
}

/// The bytes of the files that make an identity: when they differ, something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pem {
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
}

impl Pem {
    /// Reads a file. They are small and local, so this does not leave the thread.
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// All certificates in it; at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let wrong = |source| TlsError::Pem { path: self.path.clone(), wanted: "certificate", source };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let found = found.map_err(wrong)?;
        if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
    }

    /// The first private key in it.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|source| TlsError::Pem {
            path: self.path.clone(),
            wanted: "private key",
            source,
        })
    }

    /// All certificates in it, as authorities.
    pub(super) fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in self.certificates()? {
            store.add(certificate).map_err(|source| self.unusable(source))?;
        }
        Ok(store)
    }

    pub(super) fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Unusable { path: self.path.clone(), source }
    }
}
