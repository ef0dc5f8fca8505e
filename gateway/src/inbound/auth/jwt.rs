//! JSON Web Tokens, checked against the key set of whoever issues them.
//!
//! The key decides the algorithm, never the token: `none`, HMAC with a public key and the like are other algorithms than
//! the key's, and so refused.

mod key_set;
mod signatures;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};
use weft_runtime::{
    BoxError, Context,
    config::{FromConfig, Rule, Section, not_empty},
};

use super::{
    error::Denied,
    identity::{Facts, Identity, Way},
    pattern::{Patterns, is_pattern},
};
use crate::{
    inbound::{
        tenant::Tenant,
        watched::{FileConfig, Watched},
    },
    metrics::Metrics,
};
use key_set::KeySet;

/// `[auth.jwt]`: whose tokens are taken, and what is read in them.
#[derive(Clone, Debug)]
pub(crate) struct JwtConfig {
    key_set: FileConfig,
    issuer: String,
    audiences: Vec<String>,
    /// How far clocks may be apart.
    leeway: Duration,
    /// The claim that names the tenant.
    tenant_claim: String,
    /// The claim with the scopes: a text with spaces between them, or a list.
    scopes_claim: String,
    /// What a scope lets its bearer call; without any, a token lets it call everything.
    scopes: HashMap<String, Patterns>,
    /// The claim with the models that may be used; `None`: all.
    models_claim: Option<String>,
}

const LEEWAY: Duration = Duration::from_secs(30);

impl FromConfig for JwtConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let minutes = Rule {
            holds: |time, bounds| *time <= bounds[0],
            bounds: vec![Duration::from_secs(300)],
            words: "must be at most 5m".to_owned(),
        };
        let some = Rule {
            holds: |texts: &Vec<String>, _| {
                !texts.is_empty() && texts.iter().all(|text| !text.trim().is_empty())
            },
            bounds: Vec::new(),
            words: "must name at least one audience".to_owned(),
        };
        let scopes = scopes(section);
        Self {
            key_set: FileConfig::required(section),
            issuer: section.required("issuer", not_empty()),
            audiences: section.required("audiences", some),
            leeway: section.value("leeway", LEEWAY, minutes),
            tenant_claim: section.value("tenant_claim", "tenant".to_owned(), not_empty()),
            scopes_claim: section.value("scopes_claim", "scope".to_owned(), not_empty()),
            scopes,
            models_claim: section.optional("models_claim", not_empty()),
        }
    }
}

/// What each scope lets its bearer call.
fn scopes(section: &mut Section<'_>) -> HashMap<String, Patterns> {
    let mut scopes = HashMap::new();
    for Scope { name, methods } in section.list("scopes") {
        let found = format!("{name:?}");
        if scopes.insert(name, methods).is_some() {
            section.problem("scopes", found, "must have each name once");
        }
    }
    scopes
}

/// `[[auth.jwt.scopes]]`.
struct Scope {
    name: String,
    methods: Patterns,
}

impl FromConfig for Scope {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            name: section.required("name", not_empty()),
            methods: Patterns::read(section, "methods", &["*"]),
        }
    }
}

/// Reads tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    config: JwtConfig,
    keys: Arc<Watched<KeySet>>,
}

impl Tokens {
    /// Reads the key set, and watches it.
    ///
    /// # Errors
    /// It is not usable.
    pub(super) fn new(config: &JwtConfig, context: &Context, metrics: &Metrics) -> Result<Self, BoxError> {
        signatures::install();
        let file = config.key_set.clone();
        let keys = Watched::open("token keys", file, metrics.reloads.clone(), KeySet::read)?;
        keys.watch(context);
        Ok(Self { config: config.clone(), keys })
    }

    /// Whether a credential has the form of a token: three parts with points between. Keys of ours have no point.
    pub(super) fn is_token(credential: &str) -> bool {
        credential.split('.').count() == 3
    }

    /// Whose token this is.
    pub(super) fn find(&self, token: &str) -> Result<Identity, Denied> {
        let claims = verified(token, &self.keys.now(), &self.config)?;
        self.config.identity(&claims)
    }
}

type Claims = Map<String, Value>;

/// The claims of a token that is signed by a key of the set, meant for us, and valid now.
fn verified(token: &str, keys: &KeySet, config: &JwtConfig) -> Result<Claims, Denied> {
    let header = decode_header(token).map_err(|_| Denied::Invalid)?;
    // Whoever does not understand what is marked as critical must refuse it (RFC 7515), and nothing of that is understood.
    if header.crit.is_some() {
        return Err(Denied::Invalid);
    }
    let key = keys.find(header.kid.as_deref()).ok_or(Denied::Invalid)?;
    let mut validation = Validation::new(key.algorithm);
    validation.leeway = config.leeway.as_secs();
    validation.validate_nbf = true;
    validation.set_issuer(&[&config.issuer]);
    validation.set_audience(&config.audiences);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    let token = decode::<Claims>(token, &key.decoding, &validation).map_err(|error| match error.kind() {
        ErrorKind::ExpiredSignature => Denied::Expired,
        _ => Denied::Invalid,
    })?;
    Ok(token.claims)
}

impl JwtConfig {
    fn identity(&self, claims: &Claims) -> Result<Identity, Denied> {
        let tenant =
            claims.get(&self.tenant_claim).and_then(Value::as_str).filter(|name| !name.trim().is_empty());
        let tenant = tenant.ok_or_else(|| Denied::Claim { claim: self.tenant_claim.clone() })?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or(tenant);
        Ok(Identity::new(Facts {
            way: Way::Token,
            name: subject.to_owned(),
            tenant: Tenant::named(tenant),
            methods: self.methods(claims),
            models: self.models(claims),
        }))
    }

    fn methods(&self, claims: &Claims) -> Patterns {
        if self.scopes.is_empty() {
            return Patterns::all();
        }
        let scopes = words(claims.get(&self.scopes_claim));
        Patterns::union(scopes.filter_map(|scope| self.scopes.get(scope)))
    }

    fn models(&self, claims: &Claims) -> Patterns {
        let Some(claim) = &self.models_claim else { return Patterns::all() };
        let models = words(claims.get(claim)).filter(|text| is_pattern(text));
        Patterns::of(models.map(str::to_owned).collect())
    }
}

/// The words of a claim: of a text, or of a list of texts.
fn words(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let text = claim.and_then(Value::as_str).unwrap_or_default();
    let list = claim.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    text.split_whitespace().chain(list.iter().filter_map(Value::as_str))
}

#[cfg(test)]
mod tests;
