//! `[resume]`.

use std::time::Duration;

use weft_runtime::config::{FromConfig, Section, any, between, positive};

/// When an answer that loses a replica (of inference, the tokenizer or the filter) goes on at another.
#[derive(Clone, Debug)]
pub(crate) struct Resume {
    /// Whether it does at all.
    pub(crate) enabled: bool,
    /// How often one answer may, for each of the services.
    pub(crate) max_per_answer: u32,
    /// How long an answer may be without a replica each time.
    pub(crate) patience: Duration,
    /// Resumptions that each answer pays for.
    pub(crate) budget_ratio: f64,
    /// Resumptions that are allowed before the budget has earned any, and the most that it may hold.
    pub(crate) budget_reserve: u32,
}

impl FromConfig for Resume {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            enabled: section.value("enabled", true, any()),
            // A request that brings its replica down may do so to the next.
            max_per_answer: section.value("max_per_answer", 5, between(1, 1_000)),
            patience: section.value("patience", Duration::from_secs(5), positive()),
            budget_ratio: section.value("budget_ratio", 0.5, between(0.0, 10.0)),
            // All streams of a large replica at once.
            budget_reserve: section.value("budget_reserve", 1_024, between(1, 100_000)),
        }
    }
}
