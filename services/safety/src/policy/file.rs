//! The policy file as it is written. Every problem in it is found before any is reported.

use std::sync::Arc;

use regex::Regex;
use weft_runtime::config::{FromConfig, Rule, Section, any, not_empty};

use crate::{
    detector::{
        self, Detector,
        patterns::{self, LONGEST_TERM},
    },
    verdict::{Action, Direction},
};

/// What stands in a policy file.
pub(super) struct File {
    /// The policy of a request that names none.
    pub(super) default: String,
    pub(super) policies: Vec<(String, Draft)>,
}

impl FromConfig for File {
    fn from_config(section: &mut Section<'_>) -> Self {
        let default: String = section.required("default", not_empty());
        let policies: Vec<(String, Draft)> = section.named("policies");
        if !default.is_empty() && !policies.iter().any(|(name, _)| *name == default) {
            section.problem(
                "default",
                format!("\"{default}\""),
                format!("must be one of {}", quoted(&policies)),
            );
        }
        Self { default, policies }
    }
}

fn quoted(policies: &[(String, Draft)]) -> String {
    match policies {
        [] => "the policies of this file, and it has none".to_owned(),
        policies => policies.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
    }
}

/// One policy, `[policies.NAME]`.
pub(super) struct Draft {
    /// For each built-in category.
    pub(super) actions: BuiltIn,
    pub(super) denials: Vec<Denial>,
    pub(super) exceptions: Vec<Exception>,
}

impl FromConfig for Draft {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            actions: section.section("actions"),
            denials: section.list("deny"),
            exceptions: section.list("exceptions"),
        }
    }
}

/// What is done in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Actions {
    pub(super) prompt: Action,
    pub(super) completion: Action,
}

impl Actions {
    fn read(section: &mut Section<'_>, default: Action) -> Self {
        Self {
            prompt: section.choice("prompt", default, &Action::WORDS),
            completion: section.choice("completion", default, &Action::WORDS),
        }
    }

    pub(super) fn of(self, direction: Direction) -> Action {
        match direction {
            Direction::Prompt => self.prompt,
            Direction::Completion => self.completion,
        }
    }
}

/// What is not mentioned is reported and changes nothing: a detector that a newer version brings shows up in the
/// metrics before anyone decides what to do about it.
impl FromConfig for Actions {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self::read(section, Action::Flag)
    }
}

/// What is done about each built-in category.
pub(super) struct BuiltIn(pub(super) Vec<(&'static str, Actions)>);

impl FromConfig for BuiltIn {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self(detector::categories().map(|category| (category, section.section(category))).collect())
    }
}

/// Something that the operator denies, `[[policies.NAME.deny]]`.
pub(super) struct Denial {
    pub(super) name: String,
    pub(super) category: String,
    pub(super) terms: Vec<String>,
    pub(super) patterns: Vec<Arc<Detector>>,
    pub(super) ignore_case: bool,
    pub(super) whole_word: bool,
    pub(super) actions: Actions,
}

impl FromConfig for Denial {
    fn from_config(section: &mut Section<'_>) -> Self {
        let name: String = section.required("name", name_rule());
        let category = format!("denied.{name}");
        let terms = terms(section);
        let patterns: Vec<String> = section.value("patterns", Vec::new(), any());
        if terms.is_empty() && patterns.is_empty() {
            section.problem("terms", "[]", "must not be empty unless `patterns` has something in it");
        }
        Self {
            patterns: compile(section, &category, &name, &patterns),
            ignore_case: section.value("ignore_case", true, any()),
            whole_word: section.value("whole_word", true, any()),
            actions: Actions::read(section, Action::Block),
            name,
            category,
            terms,
        }
    }
}

/// Names end up in metrics and in placeholders.
fn name_rule() -> Rule<String> {
    let is_name = |name: &String, _: &[String]| {
        !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    Rule { holds: is_name, bounds: Vec::new(), words: "must be 1 to 64 of a-z, 0-9 and _".to_owned() }
}

fn terms(section: &mut Section<'_>) -> Vec<String> {
    let terms: Vec<String> = section.value("terms", Vec::new(), any());
    for term in &terms {
        let length = term.chars().count();
        if term.trim().is_empty() || length > LONGEST_TERM {
            let rule =
                format!("must be 1 to {LONGEST_TERM} characters, not all of them blank; this is {length}");
            section.problem("terms", format!("\"{term}\""), rule);
        }
    }
    terms
}

fn compile(section: &mut Section<'_>, category: &str, name: &str, patterns: &[String]) -> Vec<Arc<Detector>> {
    let mut compiled = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        match patterns::denied(category, name, pattern) {
            Ok(detector) => compiled.push(Arc::new(detector)),
            Err(error) => section.problem("patterns", format!("'{pattern}'"), error.to_string()),
        }
    }
    compiled
}

/// Texts that are no finding, `[[policies.NAME.exceptions]]`.
pub(super) struct Exception {
    /// Of these categories; of all if empty.
    categories: Vec<String>,
    /// Expressions that match such a text as a whole.
    pub(super) patterns: Vec<String>,
}

impl Exception {
    /// Whether it speaks about a category.
    pub(super) fn covers(&self, category: &str) -> bool {
        self.categories.is_empty() || self.categories.iter().any(|ours| ours == category)
    }
}

impl FromConfig for Exception {
    fn from_config(section: &mut Section<'_>) -> Self {
        let categories: Vec<String> = section.value("categories", Vec::new(), any());
        for category in categories.iter().filter(|category| !is_category(category)) {
            let known = detector::categories().collect::<Vec<_>>().join(", ");
            section.problem(
                "categories",
                format!("\"{category}\""),
                format!("must be one of {known}, denied.NAME"),
            );
        }
        let terms: Vec<String> = section.value("terms", Vec::new(), any());
        let literal = |term: &String| format!(r"\A(?i:{})\z", regex::escape(term));
        let mut patterns: Vec<String> = terms.iter().map(literal).collect();
        for pattern in section.value::<Vec<String>>("patterns", Vec::new(), any()) {
            match Regex::new(&pattern) {
                Ok(_) => patterns.push(format!(r"\A(?:{pattern})\z")),
                Err(_) => section.problem("patterns", format!("'{pattern}'"), "must be a regular expression"),
            }
        }
        Self { categories, patterns }
    }
}

fn is_category(category: &str) -> bool {
    category.starts_with("denied.") || detector::categories().any(|known| known == category)
}
