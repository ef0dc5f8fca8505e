//! A policy for one direction, ready to run over any number of texts at once.

use std::sync::Arc;

use regex::RegexSet;

use crate::{detector::patterns::Terms, verdict::Rule, window::search::Bank};

/// Everything that is looked for in one direction. Immutable and shared.
#[derive(Debug)]
pub struct Program {
    pub(crate) rules: Vec<Line>,
    pub(crate) banks: Vec<Bank>,
    pub(crate) terms: Option<Terms>,
    /// How many bytes of one finding are held at most; a longer one becomes several that touch.
    pub(crate) max_hold_bytes: usize,
}

/// A rule with what it takes to apply it.
#[derive(Debug)]
pub(crate) struct Line {
    /// The rule as findings name it.
    pub(crate) rule: Arc<Rule>,
    /// The rule's category as a number: the first rule of the same category.
    pub(crate) category: usize,
    /// What takes a finding's place.
    pub(crate) placeholder: String,
    /// Texts that are no finding of this rule.
    pub(crate) exceptions: RegexSet,
}

impl Line {
    /// The rule that is to follow others.
    pub(crate) fn after(lines: &[Self], rule: Rule, exceptions: RegexSet) -> Self {
        let placeholder = format!("[REDACTED:{}]", rule.category);
        let same = lines.iter().position(|line| line.rule.category == rule.category);
        Self { rule: Arc::new(rule), category: same.unwrap_or(lines.len()), placeholder, exceptions }
    }

    /// Whether the policy exempts this text from the rule.
    pub(crate) fn is_excepted(&self, text: &str) -> bool {
        !self.exceptions.is_empty() && self.exceptions.is_match(text)
    }
}
