//! Who is asking, and what they may do.

use std::sync::Arc;

use super::{error::Denied, method, pattern::Patterns};
use crate::inbound::tenant::Tenant;

/// How a caller showed who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// An API key.
    Key,
    /// A JSON Web Token.
    Token,
    /// A client certificate.
    Certificate,
    /// Not at all.
    Nothing,
}

impl Way {
    /// Its name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Nothing => "nothing",
        }
    }
}

/// A caller. In the extensions of every request inside the auth layer. Cheap to clone; holds no secret.
#[derive(Clone, Debug)]
pub(crate) struct Identity(Arc<Facts>);

/// What is known of a caller.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) way: Way,
    /// The id of its key, the subject of its token or the name in its certificate.
    pub(crate) name: String,
    pub(crate) tenant: Tenant,
    /// Full names of gRPC methods, such as `weft.gateway.v1.GatewayService/Chat`, and paths of other APIs.
    pub(crate) methods: Patterns,
    /// Names of models; `MODEL:ADAPTER` for a model through an adapter.
    pub(crate) models: Patterns,
}

impl Identity {
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    /// A caller that did not say who it is, and may do everything.
    pub(crate) fn anyone() -> Self {
        Self::of_tenant(Way::Nothing, Tenant::default())
    }

    /// A caller of a gateway that asks for no identity: its certificate names its tenant, if it showed one.
    pub(crate) fn of_tenant(way: Way, tenant: Tenant) -> Self {
        let name = tenant.name().unwrap_or_default().to_owned();
        Self::new(Facts { way, name, tenant, methods: Patterns::all(), models: Patterns::all() })
    }

    /// How it showed who it is.
    pub(crate) fn way(&self) -> Way {
        self.0.way
    }

    /// Whom its requests are charged to.
    pub(crate) fn tenant(&self) -> &Tenant {
        &self.0.tenant
    }

    /// Whether it may make the call of this path, by any name that the call goes by.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn may_call(&self, path: &str) -> Result<(), Denied> {
        if method::names(path).any(|name| self.0.methods.allow(name)) {
            return Ok(());
        }
        Err(Denied::method(&self.0.name, path, method::same(path)))
    }

    /// Whether it may use this model, or the model through this adapter.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn may_use(&self, model: &str, adapter: Option<&str>) -> Result<(), Denied> {
        let name = adapter.map_or_else(|| model.to_owned(), |adapter| format!("{model}:{adapter}"));
        if self.0.models.allow(&name) {
            return Ok(());
        }
        Err(Denied::model(&self.0.name, &name))
    }
}
