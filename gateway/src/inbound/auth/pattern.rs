//! Names that are allowed: whole ones, or their beginning with a `*` behind it.

use std::sync::Arc;

use weft_runtime::config::{Rule, Section};

/// A list of patterns. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patterns(Arc<[String]>);

impl Patterns {
    /// Every name.
    pub(crate) fn all() -> Self {
        Self(Arc::new(["*".to_owned()]))
    }

    /// These; not yet checked against the [`rule`].
    pub(crate) fn of(patterns: Vec<String>) -> Self {
        Self(patterns.into())
    }

    /// What any of these allows.
    pub(super) fn union<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        Self(all.flat_map(|patterns| patterns.0.iter().cloned()).collect())
    }

    /// The patterns under `key`, or `default` where there are none.
    pub(crate) fn read(section: &mut Section<'_>, key: &'static str, default: &[&str]) -> Self {
        let default = default.iter().map(|&text| text.to_owned()).collect();
        Self::of(section.value(key, default, rule()))
    }

    /// Whether one of them is this name, or the beginning of it.
    pub(crate) fn allow(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        })
    }
}

/// No empty pattern, and a `*` only at the end.
fn rule() -> Rule<Vec<String>> {
    Rule {
        holds: |patterns, _| patterns.iter().all(|text| is_pattern(text)),
        bounds: Vec::new(),
        words: "must be names, each of which may end with one `*` and have none elsewhere".to_owned(),
    }
}

/// Whether a text is a pattern.
pub(super) fn is_pattern(text: &str) -> bool {
    !text.trim().is_empty() && text.find('*').is_none_or(|at| at + 1 == text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_end() {
        let patterns = Patterns::of(vec!["a.B/C".to_owned(), "a.D/*".to_owned()]);
        for (name, allowed) in [
            ("a.B/C", true),
            ("a.B/Cc", false),
            ("a.B/", false),
            ("a.D/", true),
            ("a.D/E", true),
            ("a.d/E", false),
        ] {
            assert_eq!(patterns.allow(name), allowed, "{name}");
        }
        assert!(Patterns::all().allow("anything") && !Patterns::default().allow("anything"));
        assert!(is_pattern("*") && is_pattern("a*"));
        assert!(!is_pattern("") && !is_pattern("a*b") && !is_pattern("**"));
    }
}
