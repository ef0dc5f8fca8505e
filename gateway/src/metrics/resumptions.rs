//! Answers that lost a replica.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::PeerLabel;
use crate::error::Peer;

/// What is counted of them, by service. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Families {
    count: Family<Label, Counter>,
    pause: Family<PeerLabel, Histogram, fn() -> Histogram>,
}

/// What is counted of those of one service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Resumptions {
    service: Peer,
    count: Family<Label, Counter>,
    /// From the loss until another replica goes on.
    pub(crate) pause: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    service: Peer,
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

impl Families {
    pub(super) fn new() -> Self {
        Self { count: Family::default(), pause: Family::new_with_constructor(super::short) }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Answers that lost a replica of a service, by what came of it";
        registry.register("resumptions", help, self.count.clone());
        let help = "From the loss of a replica until another goes on";
        registry.register_with_unit("resumption_pause", help, Unit::Seconds, self.pause.clone());
    }

    pub(super) fn of(&self, service: Peer) -> Resumptions {
        let pause = self.pause.get_or_create(&PeerLabel { service }).clone();
        Resumptions { service, count: self.count.clone(), pause }
    }
}

impl Resumptions {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.count.get_or_create(&Label { service: self.service, outcome }).inc();
    }
}
