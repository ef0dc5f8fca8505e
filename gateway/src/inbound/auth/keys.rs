//! API keys: random texts of 256 bits, of which only SHA-256 hashes are kept.
//!
//! A slow hash (argon2 and the like) protects secrets that can be guessed. Nobody guesses 256 random bits, so a fast one
//! gives nothing away, and costs a microsecond a request instead of a core.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use weft_runtime::{
    BoxError,
    config::{self, FromConfig, Rule, Section, not_empty},
};

use super::{
    error::Denied,
    identity::{Facts, Identity, Way},
    pattern::Patterns,
};
use crate::inbound::tenant::Tenant;

/// A SHA-256.
type Hash = [u8; 32];

/// All keys that are known.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// By the first eight bytes of their hashes.
    buckets: HashMap<[u8; 8], Vec<Key>>,
}

#[derive(Debug)]
struct Key {
    hash: Hash,
    expires: Option<Timestamp>,
    identity: Identity,
}

impl Keys {
    /// Reads a keys file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn read(text: &str) -> Result<Self, BoxError> {
        let file: File = config::parse(text, &[])?;
        let mut buckets: HashMap<[u8; 8], Vec<Key>> = HashMap::new();
        for key in file.keys {
            buckets.entry(bucket(&key.hash)).or_default().push(key);
        }
        Ok(Self { buckets })
    }

    /// Whose key this is. Unknown and expired ones are told the same.
    pub(super) fn find(&self, secret: &str, now: Timestamp) -> Result<Identity, Denied> {
        let hash: Hash = Sha256::digest(secret).into();
        let candidates = self.buckets.get(&bucket(&hash)).map_or(&[][..], Vec::as_slice);
        // The bucket tells at most eight bytes of a hash by its timing; the rest is compared in constant time.
        let found = candidates.iter().find(|key| key.hash.ct_eq(&hash).into());
        let valid = found.filter(|key| key.expires.is_none_or(|expires| now < expires));
        valid.map(|key| key.identity.clone()).ok_or(Denied::Invalid)
    }
}

fn bucket(hash: &Hash) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    first
}

struct File {
    keys: Vec<Key>,
}

impl FromConfig for File {
    fn from_config(section: &mut Section<'_>) -> Self {
        let entries: Vec<Entry> = section.list("keys");
        let (mut ids, mut hashes) = (BTreeSet::new(), BTreeSet::new());
        for entry in &entries {
            if !ids.insert(entry.id.clone()) {
                section.problem("keys", format!("{:?}", entry.id), "must have each id once");
            }
            if !hashes.insert(entry.hash) {
                section.problem("keys", format!("{:?}", entry.id), "must have each sha256 once");
            }
        }
        Self { keys: entries.into_iter().map(Entry::into_key).collect() }
    }
}

struct Entry {
    id: String,
    tenant: String,
    hash: Hash,
    methods: Patterns,
    models: Patterns,
    expires: Option<Timestamp>,
}

impl FromConfig for Entry {
    fn from_config(section: &mut Section<'_>) -> Self {
        let hash = section.required("sha256", sha256());
        let expires = section.optional("expires", moment());
        Self {
            id: section.required("id", not_empty()),
            tenant: section.required("tenant", not_empty()),
            // What breaks its rule is replaced by a stand-in, and the file refused.
            hash: decoded(&hash).unwrap_or_default(),
            methods: Patterns::read(section, "methods", &["*"]),
            models: Patterns::read(section, "models", &["*"]),
            expires: expires.and_then(|text| text.parse().ok()),
        }
    }
}

impl Entry {
    fn into_key(self) -> Key {
        let Self { id, tenant, hash, methods, models, expires } = self;
        let facts = Facts { way: Way::Key, name: id, tenant: Tenant::named(&tenant), methods, models };
        Key { hash, expires, identity: Identity::new(facts) }
    }
}

fn decoded(text: &str) -> Option<Hash> {
    hex::decode(text).ok()?.try_into().ok()
}

fn sha256() -> Rule<String> {
    Rule {
        holds: |text, _| decoded(text).is_some(),
        bounds: Vec::new(),
        words: "must be a SHA-256 as 64 hexadecimal digits: `weft key create` prints it".to_owned(),
    }
}

fn moment() -> Rule<String> {
    Rule {
        holds: |text, _| text.parse::<Timestamp>().is_ok(),
        bounds: Vec::new(),
        words: "must be a time such as \"2030-01-31T00:00:00Z\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, secret: &str, more: &str) -> String {
        let hash = hex::encode(Sha256::digest(secret));
        format!("[[keys]]\nid = {id:?}\ntenant = \"acme\"\nsha256 = {hash:?}\n{more}\n")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_is_its_owner_until_it_expires() {
        let text = entry("one", "s1", "") + &entry("two", "s2", "expires = \"2030-01-01T00:00:00Z\"");
        let keys = Keys::read(&text).unwrap();
        let found = |secret, now| keys.find(secret, at(now)).map(|identity| identity.tenant().clone());
        let acme = Tenant::named("acme");
        assert_eq!(found("s1", "2999-01-01T00:00:00Z"), Ok(acme.clone()));
        assert_eq!(found("s2", "2029-12-31T23:59:59Z"), Ok(acme));
        let expired = found("s2", "2030-01-01T00:00:00Z");
        let unknown = found("s3", "2029-12-31T23:59:59Z");
        assert_eq!(expired, Err(Denied::Invalid));
        assert_eq!(expired, unknown, "a caller learns whether a key exists");
        assert_eq!(found("", "2030-01-01T00:00:00Z"), Err(Denied::Invalid));
    }

    #[test]
    fn the_example_is_usable() {
        Keys::read(include_str!("../../../../deploy/config/keys.toml")).unwrap();
    }

    #[test]
    fn the_hash_is_not_the_key() {
        let keys = Keys::read(&entry("one", "s1", "")).unwrap();
        let hash = hex::encode(Sha256::digest("s1"));
        assert!(keys.find(&hash, Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn everything_that_is_wrong_with_a_file_is_said_at_once() {
        let text = entry("one", "s1", "")
            + &entry("one", "s1", "methods = [\"a*b\"]\nexpires = \"soon\"\nscope = 1")
            + "[[keys]]\nsha256 = \"abc\"";
        let report = Keys::read(&text).unwrap_err().to_string();
        for line in [
            "keys.1.methods",
            "keys.1.expires",
            "keys.1.scope",
            "keys.2.id",
            "keys.2.tenant",
            "keys.2.sha256",
            "must have each id once",
            "must have each sha256 once",
        ] {
            assert!(report.contains(line), "{line:?} is not in:\n{report}");
        }
    }
}
