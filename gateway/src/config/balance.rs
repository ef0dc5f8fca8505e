//! `[balance]`.

use std::{num::NonZeroUsize, time::Duration};

use weft_runtime::config::{FromConfig, Section, between, positive};

/// How generations are spread over replicas of inference.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    /// Tokens of a prompt that are remembered together.
    pub(crate) block_tokens: usize,
    /// The most blocks that are remembered.
    pub(crate) max_blocks: NonZeroUsize,
    /// When a replica is thought to have lost a block that it was not sent again.
    pub(crate) forget_after: Duration,
    /// The part of a prompt that a replica must have before that counts.
    pub(crate) min_match: f64,
    /// How much more than the mean a replica may be given for the sake of its cache: so many times,
    pub(crate) load_factor: f64,
    /// and so many streams beyond that.
    pub(crate) load_slack: usize,
}

impl FromConfig for Balance {
    fn from_config(section: &mut Section<'_>) -> Self {
        let max_blocks = section.value("max_blocks", 262_144, between(1, 1 << 26));
        Self {
            // The size of the engine's own blocks.
            block_tokens: section.value("block_tokens", 16, between(1, 1_024)),
            max_blocks: NonZeroUsize::new(max_blocks).unwrap_or(NonZeroUsize::MIN),
            forget_after: section.value("forget_after", Duration::from_secs(600), positive()),
            min_match: section.value("min_match", 0.25, between(0.0, 1.0)),
            load_factor: section.value("load_factor", 1.25, between(1.0, 100.0)),
            load_slack: section.value("load_slack", 4, between(1, 10_000)),
        }
    }
}
