//! Who is asking, and what they may do.
//!
//! Map: `config` (`[auth]`), `credential` (what a caller shows), `keys`, `jwt`, `certificates` (ways to be let in),
//! `identity` (who it is, and what it may do), `method` (what a call stands for),
//! `pattern` (names that are allowed), `error` (why it is not let in), `layer`.
//!
//! Rules: a credential that is shown and not valid is refused, never passed over for another way; a caller does not learn
//! whether a key exists; no secret goes further than here, into no log, span, metric or error; who is let in is judged when a
//! request begins, and a stream that runs goes on when its key is withdrawn.

mod certificates;
mod config;
mod credential;
mod error;
mod identity;
mod jwt;
mod keys;
mod layer;
mod method;
mod pattern;

use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;
use weft_runtime::{BoxError, Context, tls::PeerIdentity};

use super::{tenant::Tenant, watched::Watched};
use crate::{error::Error, metrics::Metrics};
use certificates::Certificates;
use config::Mode;
use jwt::Tokens;
use keys::Keys;

pub(crate) use config::AuthConfig;
pub(crate) use error::Denied;
pub(crate) use identity::{Identity, Way};
pub(crate) use layer::{AuthLayer, Authenticated};
#[cfg(test)]
pub(crate) use method::same;

/// Decides who is let in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: AuthConfig,
    keys: Option<Arc<Watched<Keys>>>,
    tokens: Option<Tokens>,
    certificates: Option<Certificates>,
    metrics: Arc<Metrics>,
}

impl Auth {
    /// Reads what the configuration names, and watches it.
    ///
    /// # Errors
    /// A file that is not usable.
    pub(crate) fn new(
        config: &AuthConfig,
        context: &Context,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, BoxError> {
        let keys = config.keys.clone().map(|file| {
            let keys = Watched::open("API keys", file, metrics.reloads.clone(), Keys::read)?;
            keys.watch(context);
            Ok::<_, BoxError>(keys)
        });
        let tokens = config.jwt.as_ref().map(|jwt| Tokens::new(jwt, context, metrics));
        let inner = Inner {
            config: config.clone(),
            keys: keys.transpose()?,
            tokens: tokens.transpose()?,
            certificates: config.certificates.as_ref().map(Certificates::new),
            metrics: Arc::clone(metrics),
        };
        inner.announce();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The layer that lets requests in.
    pub(crate) fn layer(&self) -> AuthLayer {
        AuthLayer::new(self.clone())
    }

    /// Who sent these headers over a connection with this certificate.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&PeerIdentity>,
    ) -> Result<Identity, Error> {
        let found = self.inner.identify(headers, peer);
        let (way, outcome) = match &found {
            Ok(identity) => (identity.way().name(), "accepted"),
            Err((way, denied)) => (way.name(), denied.outcome()),
        };
        self.inner.metrics.authentications.count(way, outcome);
        found.map_err(|(_, denied)| Error::Denied(denied))
    }

    /// Whether a caller may make a call, by its path.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(crate) fn authorize(&self, identity: &Identity, path: &str) -> Result<(), Error> {
        identity.may_call(path).map_err(|denied| {
            self.inner.metrics.authentications.count(identity.way().name(), denied.outcome());
            Error::Denied(denied)
        })
    }

    /// Whether anybody may make a call.
    pub(crate) fn is_open(&self, path: &str) -> bool {
        method::names(path).any(|name| self.inner.config.open.allow(name))
    }
}

impl Inner {
    fn identify(&self, headers: &HeaderMap, peer: Option<&PeerIdentity>) -> Result<Identity, (Way, Denied)> {
        if self.config.mode == Mode::Off {
            let name = peer.and_then(|peer| peer.names().first());
            return Ok(name.map_or_else(Identity::anyone, |name| {
                Identity::of_tenant(Way::Certificate, Tenant::named(name))
            }));
        }
        let shown = credential::shown(headers).map_err(|denied| (Way::Nothing, denied))?;
        if let Some(secret) = shown {
            return self.by_secret(secret);
        }
        if let (Some(certificates), Some(peer)) = (&self.certificates, peer) {
            return certificates.find(peer).map_err(|denied| (Way::Certificate, denied));
        }
        Err((Way::Nothing, Denied::Missing { accepted: self.accepted() }))
    }

    fn by_secret(&self, secret: &str) -> Result<Identity, (Way, Denied)> {
        if let Some(tokens) = self.tokens.as_ref().filter(|_| Tokens::is_token(secret)) {
            return tokens.find(secret).map_err(|denied| (Way::Token, denied));
        }
        let keys = self.keys.as_ref().ok_or((Way::Key, Denied::Invalid))?;
        keys.now().find(secret, Timestamp::now()).map_err(|denied| (Way::Key, denied))
    }

    /// What can be shown, in words.
    fn accepted(&self) -> String {
        let ways = [
            self.keys.as_ref().map(|_| "an API key (authorization: Bearer, or x-api-key)"),
            self.tokens.as_ref().map(|_| "a JSON Web Token (authorization: Bearer)"),
            self.certificates.as_ref().map(|_| "a client certificate"),
        ];
        ways.into_iter().flatten().collect::<Vec<_>>().join(" or ")
    }

    fn announce(&self) {
        match self.config.mode {
            Mode::Off => tracing::warn!("authentication is off: every caller is let in (auth.mode)"),
            Mode::Required => tracing::info!(accepted = self.accepted(), "callers must say who they are"),
        }
    }
}
