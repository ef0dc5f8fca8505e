//! `[quota]`, and the file with the limits.

use std::{collections::BTreeSet, time::Duration};

use weft_runtime::{
    BoxError,
    config::{self, FromConfig, Rule, Section, any, between, not_empty},
};

use crate::inbound::watched::FileConfig;

/// How quotas are kept.
#[derive(Clone, Debug)]
pub(crate) struct QuotaConfig {
    /// The time that limits of requests and tokens are for.
    pub(crate) window: Duration,
    /// Tenants and models that are accounted for at once.
    pub(crate) max_accounts: usize,
    /// The limits; `None`: there are none.
    pub(crate) limits: Option<FileConfig>,
}

const WINDOW: Duration = Duration::from_secs(60);
/// A few kilobytes each at the most.
const MAX_ACCOUNTS: usize = 10_000;

impl FromConfig for QuotaConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let window = Rule {
            holds: |time, bounds| *time >= bounds[0] && *time <= bounds[1],
            bounds: vec![Duration::from_secs(1), Duration::from_secs(31 * 24 * 3600)],
            words: "must be between 1s and 31days".to_owned(),
        };
        Self {
            window: section.value("window", WINDOW, window),
            max_accounts: section.value("max_accounts", MAX_ACCOUNTS, between(1, 1_000_000)),
            limits: FileConfig::optional(section),
        }
    }
}

/// What a tenant may use of a model. `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Requests that begin within a window.
    pub(crate) requests: Option<u64>,
    /// Tokens of prompts and answers within a window.
    pub(crate) tokens: Option<u64>,
    /// Requests at once, from their arrival to their last token.
    pub(crate) streams: Option<u64>,
}

impl FromConfig for Limits {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            requests: section.optional("requests", any()),
            tokens: section.optional("tokens", any()),
            streams: section.optional("streams", any()),
        }
    }
}

/// All limits: those of everybody, and those of some.
#[derive(Clone, Debug, Default)]
pub(crate) struct LimitTable {
    /// `[default]`.
    default: Limits,
    /// `[[limits]]`.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// `None`: every tenant.
    tenant: Option<String>,
    /// `None`: every model.
    model: Option<String>,
    limits: Limits,
}

impl LimitTable {
    /// Reads a limits file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(text: &str) -> Result<Self, BoxError> {
        Ok(config::parse(text, &[])?)
    }

    /// The limits of a tenant with a model: those of the entry that says most about the two. A tenant counts for more
    /// than a model.
    pub(crate) fn of(&self, tenant: &str, model: &str) -> Limits {
        let fits = |entry: &&Entry| {
            entry.tenant.as_deref().is_none_or(|name| name == tenant)
                && entry.model.as_deref().is_none_or(|name| name == model)
        };
        let most_said = |entry: &&Entry| (entry.tenant.is_some(), entry.model.is_some());
        self.entries.iter().filter(fits).max_by_key(most_said).map_or(self.default, |entry| entry.limits)
    }

    /// Whether the file names this tenant: only such ones become labels of metrics.
    pub(crate) fn names(&self, tenant: &str) -> bool {
        self.entries.iter().any(|entry| entry.tenant.as_deref() == Some(tenant))
    }
}

impl FromConfig for LimitTable {
    fn from_config(section: &mut Section<'_>) -> Self {
        let table = Self { default: section.section("default"), entries: section.list("limits") };
        let mut seen = BTreeSet::new();
        for Entry { tenant, model, .. } in &table.entries {
            if !seen.insert((tenant.clone(), model.clone())) {
                let found = format!(
                    "{:?} with {:?}",
                    tenant.as_deref().unwrap_or("*"),
                    model.as_deref().unwrap_or("*")
                );
                section.problem("limits", found, "must have each tenant with each model once");
            }
        }
        table
    }
}

impl FromConfig for Entry {
    fn from_config(section: &mut Section<'_>) -> Self {
        let tenant = section.optional("tenant", not_empty());
        let model = section.optional("model", not_empty());
        if tenant.is_none() && model.is_none() {
            section.problem("tenant", "nothing", "must be there, or `model`; [default] is for everybody");
        }
        Self { tenant, model, limits: Limits::from_config(section) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
        [default]
        tokens = 1
        [[limits]]
        model = "m"
        tokens = 2
        [[limits]]
        tenant = "acme"
        tokens = 3
        [[limits]]
        tenant = "acme"
        model = "m"
        requests = 4
    "#;

    #[test]
    fn the_entry_that_says_most_decides_alone() {
        let table = LimitTable::read(TABLE).unwrap();
        let tokens = |tokens| Limits { tokens: Some(tokens), ..Limits::default() };
        assert_eq!(table.of("other", "n"), tokens(1));
        assert_eq!(table.of("other", "m"), tokens(2));
        assert_eq!(table.of("acme", "n"), tokens(3));
        assert_eq!(table.of("acme", "m"), Limits { requests: Some(4), ..Limits::default() });
        assert!(table.names("acme") && !table.names("other"));
        assert_eq!(LimitTable::default().of("acme", "m"), Limits::default());
    }

    #[test]
    fn the_example_is_usable() {
        let table = LimitTable::read(include_str!("../../../../deploy/config/quota.toml")).unwrap();
        assert_eq!(table.of("acme", "smollm2-135m-instruct").tokens, Some(5_000_000));
    }

    #[test]
    fn everything_that_is_wrong_with_a_file_is_said_at_once() {
        let text = "[default]\ntokens = -1\n[[limits]]\nrequests = 1\n[[limits]]\ntenant = \"a\"\ntoken = 1\n[[limits]]\ntenant = \"a\"";
        let report = LimitTable::read(text).unwrap_err().to_string();
        for line in [
            "default.tokens = -1",
            "limits.0.tenant",
            "did you mean `tokens`?",
            "each tenant with each model once",
        ] {
            assert!(report.contains(line), "{line:?} is not in:\n{report}");
        }
    }
}
