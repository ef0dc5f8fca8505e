//! What a certificate says of itself: whom it names and when it is valid.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::files::{Pem, TlsError};

/// When the chain's leaf ends, in seconds since 1970.
///
/// # Errors
/// A leaf that is not valid now: it would only make every handshake fail.
pub(super) fn end_of(pem: &Pem, chain: &[CertificateDer<'_>]) -> Result<i64, TlsError> {
    let parsed = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let (_, leaf) = parsed.ok_or_else(|| TlsError::X509 { path: pem.path.clone() })?;
    let (from, to) = (leaf.validity().not_before, leaf.validity().not_after);
    if now() < from.timestamp() || now() > to.timestamp() {
        let (from, to) = (from.to_string(), to.to_string());
        return Err(TlsError::NotValidNow { path: pem.path.clone(), from, to });
    }
    Ok(to.timestamp())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The names in a certificate: DNS names, URIs (SPIFFE ids), and the common name.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.into_iter().flat_map(|names| &names.value.general_names);
    let mut names: Vec<String> = alternatives
        .filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    names.extend(common.map(str::to_owned));
    names
}
