//! Whom a request is charged to, and whose prompts it may share a cache with.

use sha2::{Digest as _, Sha256};
use tonic::Request;
use weft_runtime::tls::PeerIdentity;

/// The longest name that inference takes, in bytes.
const LONGEST: usize = 128;

/// A caller, as far as fairness and isolation tell callers apart. All callers that are not known are one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    fn named(name: &str) -> Self {
        if name.len() <= LONGEST {
            return Self(name.to_owned());
        }
        Self(format!("sha256:{}", hex::encode(Sha256::digest(name))))
    }
}

/// The tenant that a request belongs to: the first name in the certificate that its caller showed.
///
/// The one place that decides it: who authenticates callers in another way says so here.
pub(crate) fn tenant_of<T>(request: &Request<T>) -> Tenant {
    let shown = PeerIdentity::of(request).and_then(|caller| caller.names().first());
    shown.map_or_else(Tenant::default, |name| Tenant::named(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_a_certificate_belongs_to_the_tenant_without_a_name() {
        assert_eq!(tenant_of(&Request::new(())).name(), None);
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
