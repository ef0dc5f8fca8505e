//! `[hedge]`.

use std::time::Duration;

use weft_runtime::config::{FromConfig, Section, any, between};

/// When a short call is made twice.
#[derive(Clone, Debug)]
pub(crate) struct Hedge {
    /// Whether it ever is.
    pub(crate) enabled: bool,
    /// A call that takes longer than this part of the last ones takes unusually long.
    pub(crate) quantile: f64,
    /// How many calls say what is usual.
    pub(crate) window: usize,
    /// What is never unusually long.
    pub(crate) min_delay: Duration,
}

impl FromConfig for Hedge {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            enabled: section.value("enabled", true, any()),
            quantile: section.value("quantile", 0.95, between(0.5, 0.999)),
            window: section.value("window", 256, between(16, 100_000)),
            min_delay: section.value("min_delay", Duration::from_millis(10), any()),
        }
    }
}
