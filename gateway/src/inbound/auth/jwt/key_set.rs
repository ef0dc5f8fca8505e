//! A JSON Web Key Set (RFC 7517): the public keys of whoever issues tokens.

use std::collections::HashMap;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use weft_runtime::BoxError;

/// Keys by their ids.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: HashMap<Option<String>, Key>,
}

/// A public key and the one algorithm that it is for.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

/// Why a key set is not usable.
#[derive(Debug, thiserror::Error)]
enum KeySetError {
    #[error("is no JSON Web Key Set")]
    NotJwks(#[source] serde_json::Error),
    #[error("holds no key for RS256, ES256 or EdDSA")]
    Empty,
    #[error("holds the key id {0:?} more than once")]
    Twice(Option<String>),
    #[error("holds a shared secret (kty \"oct\"); only public keys belong here")]
    Secret,
    #[error("holds a key that cannot be read, with the id {kid:?}")]
    Unreadable { kid: Option<String>, source: jsonwebtoken::errors::Error },
    #[error("holds a key of {bytes} bytes, with the id {kid:?}; must have {rule}")]
    Size { kid: Option<String>, bytes: usize, rule: &'static str },
}

impl KeySet {
    /// Reads a key set. Keys for other purposes and algorithms are left out and logged: issuers publish such beside.
    ///
    /// # Errors
    /// It has none that can be used, or one that must not be in it.
    pub(super) fn read(text: &str) -> Result<Self, BoxError> {
        let set: JwkSet = serde_json::from_str(text).map_err(KeySetError::NotJwks)?;
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
                return Err(KeySetError::Secret.into());
            }
            let kid = jwk.common.key_id.clone();
            let Some(algorithm) = algorithm(jwk) else {
                tracing::warn!(kid, "a key of the key set is for another purpose or algorithm and not used");
                continue;
            };
            let decoding = DecodingKey::from_jwk(jwk)
                .map_err(|source| KeySetError::Unreadable { kid: kid.clone(), source })?;
            check_size(&decoding, kid.as_deref())?;
            if keys.insert(kid.clone(), Key { algorithm, decoding }).is_some() {
                return Err(KeySetError::Twice(kid).into());
            }
        }
        if keys.is_empty() { Err(KeySetError::Empty.into()) } else { Ok(Self { keys }) }
    }

    /// The key of this id. A token without one is of the only key there is.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, self.keys.len()) {
            (Some(kid), _) => self.keys.get(&Some(kid.to_owned())),
            (None, 1) => self.keys.values().next(),
            (None, _) => None,
        }
    }
}

/// No signature is ever valid for a key of another size: better said when the key comes than to whoever brings a token.
fn check_size(key: &DecodingKey, kid: Option<&str>) -> Result<(), KeySetError> {
    let (bytes, sizes, rule) = match (key.kind(), key.family()) {
        (DecodingKeyKind::RsaModulusExponent { n, .. }, _) => (n.len(), 256..=1024, "256 to 1024 (RSA)"),
        (DecodingKeyKind::SecretOrDer(point), AlgorithmFamily::Ec) => {
            (point.len(), 65..=65, "65 (a point of P-256)")
        }
        (DecodingKeyKind::SecretOrDer(point), _) => (point.len(), 32..=32, "32 (Ed25519)"),
    };
    if sizes.contains(&bytes) {
        return Ok(());
    }
    Err(KeySetError::Size { kid: kid.map(str::to_owned), bytes, rule })
}

/// The algorithm that a key is for, if it is one of ours.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let of_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let agrees = jwk.common.key_algorithm.is_none_or(|named| named.to_string() == format!("{of_type:?}"));
    (signs && agrees).then_some(of_type)
}
