//! Answers whose inference replica was lost.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// What is counted of them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Resumptions {
    count: Family<Label, Counter>,
    /// From the loss until another replica goes on.
    pub(crate) pause: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    outcome: Outcome,
}

/// What came of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Another replica went on.
    Resumed,
    /// None did.
    Failed,
    /// None was asked: there was no other, or the configuration or the budget did not allow it.
    Refused,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::Refused => "refused",
        };
        std::fmt::Write::write_str(encoder, word)
    }
}

impl Resumptions {
    pub(super) fn new() -> Self {
        Self { count: Family::default(), pause: super::short() }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Answers whose inference replica was lost, by what came of it";
        registry.register("resumptions", help, self.count.clone());
        let help = "From the loss of a replica until another goes on";
        registry.register_with_unit("resumption_pause", help, Unit::Seconds, self.pause.clone());
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.count.get_or_create(&Label { outcome }).inc();
    }
}
