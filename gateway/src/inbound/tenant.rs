//! Whom a request is charged to, and whose prompts it may share a cache with.

use http::Extensions;
use sha2::{Digest as _, Sha256};

use super::auth::Identity;

/// The longest name that inference takes, in bytes.
const LONGEST: usize = 128;

/// A caller, as far as fairness and isolation tell callers apart. All callers that are not known are one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tenant(String);

impl Tenant {
    /// Its name, at most 128 bytes; `None` for callers that are not known.
    pub(crate) fn name(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }

    /// What separates prefix caches on inference: decided by the tenant and by what the caller chose within it. No choice
    /// of one tenant's gives another's, and nobody without inference's own door can say one.
    pub(crate) fn cache_salt(&self, chosen: &str) -> String {
        let mut hash = Sha256::new();
        // With its length, so that no tenant's end can pass for a choice's beginning.
        hash.update((self.0.len() as u64).to_le_bytes());
        hash.update(&self.0);
        hash.update(chosen);
        format!("sha256:{}", hex::encode(hash.finalize()))
    }

    /// The tenant of this name. One that is too long for the wire is known by its SHA-256: cut short, two would be one.
    pub(super) fn named(name: &str) -> Self {
        if name.len() <= LONGEST {
            return Self(name.to_owned());
        }
        Self(format!("sha256:{}", hex::encode(Sha256::digest(name))))
    }
}

/// Who sent a request, by the extensions that the auth layer has left in it.
///
/// The one place that decides whose a request is: inference charges it to the tenant of this identity, and so do quotas.
pub(crate) fn caller_of(extensions: &Extensions) -> Identity {
    // Behind the layer there always is one; without it nobody was asked.
    extensions.get().cloned().unwrap_or_else(Identity::anyone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_is_not_known_belongs_to_the_tenant_without_a_name() {
        assert_eq!(caller_of(&Extensions::new()).tenant().name(), None);
    }

    #[test]
    fn no_choice_of_one_tenant_gives_the_salt_of_another() {
        let tenants = ["", "a", "ab", "b", "spiffe://example/app"].map(Tenant::named);
        let mut salts = std::collections::BTreeSet::new();
        for tenant in &tenants {
            for chosen in ["", "a", "b", "ab", "spiffe://example/app"] {
                let salt = tenant.cache_salt(chosen);
                assert_eq!(salt, tenant.cache_salt(chosen));
                assert!(salt.len() <= 128, "inference takes no longer one");
                salts.insert(salt);
            }
        }
        assert_eq!(salts.len(), 25);
        assert!(
            !salts.contains(&tenants[0].cache_salt(salts.first().unwrap())),
            "a salt that leaked is of no use"
        );
    }

    #[test]
    fn a_name_that_is_too_long_stays_different_from_every_other() {
        let long = |last: char| Tenant::named(&format!("spiffe://example/{}{last}", "x".repeat(200)));
        assert_ne!(long('a'), long('b'));
        assert!(long('a').name().is_some_and(|name| name.len() <= LONGEST));
        assert_eq!(Tenant::named("spiffe://example/app").name(), Some("spiffe://example/app"));
    }
}
