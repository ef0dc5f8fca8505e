//! Why generations went where they went.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What is counted of them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    count: Family<Label, Counter>,
    blocks: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    reason: Reason,
}

/// Why a replica was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// It has the prompt's beginning.
    Prefix,
    /// It has used the adapter.
    Adapter,
    /// Those that have the prompt's beginning have enough to do; so has it the least of two.
    Bound,
    /// It has the least to do of two.
    Load,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        std::fmt::Write::write_str(
            encoder,
            match self {
                Self::Prefix => "prefix",
                Self::Adapter => "adapter",
                Self::Bound => "bound",
                Self::Load => "load",
            },
        )
    }
}

impl Choices {
    pub(crate) fn new() -> Self {
        Self { count: Family::default(), blocks: Gauge::default() }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Generations, by why they went to the replica that they went to";
        registry.register("balance_choices", help, self.count.clone());
        let help = "Blocks of prompts of which is remembered where they went";
        registry.register("balance_blocks", help, self.blocks.clone());
    }

    /// A replica was chosen; so many blocks are remembered now.
    pub(crate) fn count(&self, reason: Reason, blocks: usize) {
        self.count.get_or_create(&Label { reason }).inc();
        self.blocks.set(i64::try_from(blocks).unwrap_or(i64::MAX));
    }
}
