//! Client certificates, which TLS has already checked: the first name in one is who calls.

use std::collections::HashMap;

use weft_runtime::tls::PeerIdentity;

use super::{
    config::CertificatesConfig,
    error::Denied,
    identity::{Facts, Identity, Way},
    pattern::Patterns,
};
use crate::inbound::tenant::Tenant;

/// What the names in certificates stand for.
#[derive(Debug)]
pub(super) struct Certificates {
    listed: HashMap<String, Identity>,
    unlisted: bool,
}

impl Certificates {
    pub(super) fn new(config: &CertificatesConfig) -> Self {
        let listed = config.names.iter().map(|entry| {
            let facts = Facts {
                way: Way::Certificate,
                name: entry.name.clone(),
                tenant: Tenant::named(entry.tenant.as_deref().unwrap_or(&entry.name)),
                methods: entry.methods.clone(),
                models: entry.models.clone(),
            };
            (entry.name.clone(), Identity::new(facts))
        });
        Self { listed: listed.collect(), unlisted: config.unlisted }
    }

    /// Who showed this certificate.
    pub(super) fn find(&self, peer: &PeerIdentity) -> Result<Identity, Denied> {
        // A certificate may be valid and name nobody.
        let name = peer.names().first().ok_or(Denied::Invalid)?;
        match self.listed.get(name) {
            Some(identity) => Ok(identity.clone()),
            None if self.unlisted => Ok(of_itself(name)),
            None => Err(Denied::Invalid),
        }
    }
}

fn of_itself(name: &str) -> Identity {
    Identity::new(Facts {
        way: Way::Certificate,
        name: name.to_owned(),
        tenant: Tenant::named(name),
        methods: Patterns::all(),
        models: Patterns::all(),
    })
}
