//! What the gateway counts. Labels are bounded: models that are served, categories of the safety policy, fixed words.

mod access;
pub(crate) mod choices;
pub(crate) mod resumptions;

use std::{fmt::Write as _, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{answer::Findings, error::Peer};
pub(crate) use choices::Choices;
pub(crate) use resumptions::Resumptions;

pub(crate) use access::{Authentications, Reloads};

/// Everything the gateway counts. Shared: cloned piece by piece it would cost each request what its counting does.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// From arrival to the end of the answer.
    pub(crate) duration: Family<Outcome, Histogram, fn() -> Histogram>,
    /// From arrival to the first text that left.
    pub(crate) first_token: Family<Work, Histogram, fn() -> Histogram>,
    /// From the first text to the end, by each token after the first.
    pub(crate) output_token: Family<Work, Histogram, fn() -> Histogram>,
    /// How long the stages of the pipeline take: of streaming ones, each piece's way to the service and back.
    pub(crate) stages: Family<Stage, Histogram, fn() -> Histogram>,
    /// Tokens in prompts and answers.
    pub(crate) tokens: Family<TokenKind, Counter>,
    /// Answers that a stop string ended.
    pub(crate) stop_strings: Counter,
    /// Who was let in, and who was not.
    pub(crate) authentications: Authentications,
    /// Files that were read again.
    pub(crate) reloads: Reloads,
    /// What the safety filter found.
    pub(crate) findings: Family<Finding, Counter>,
    /// Why generations went where they went.
    pub(crate) choices: Choices,
    resumptions: resumptions::Families,
    retries: Family<PeerLabel, Counter>,
    hedges: Family<PeerLabel, Counter>,
    upstream: Family<PeerLabel, Gauge>,
}

/// What a request was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Work {
    pub(crate) operation: &'static str,
    pub(crate) model: String,
}

/// What a request was for and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) operation: &'static str,
    pub(crate) model: String,
    /// Empty where there was no answer.
    pub(crate) finish_reason: &'static str,
    /// The gRPC code, such as `DEADLINE_EXCEEDED`.
    pub(crate) code: &'static str,
}

/// A stage of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Stage {
    pub(crate) stage: &'static str,
}

/// Which tokens of which model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TokenKind {
    pub(crate) model: String,
    /// `input` or `output`.
    pub(crate) kind: &'static str,
}

/// What the safety filter found where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Finding {
    pub(crate) category: String,
    /// `prompt` or `completion`.
    pub(crate) direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    service: Peer,
}

impl EncodeLabelValue for Peer {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.name())
    }
}

/// From 1 ms to about 9 minutes: a refusal to the longest answer.
fn long() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}

/// From 50 µs to about 13 s: a piece's way through one stage to a prompt's way through prefill.
fn short() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 19))
}

impl Metrics {
    pub(crate) fn new(metrics: &weft_runtime::metrics::Metrics) -> Arc<Self> {
        let new = Arc::new(Self {
            duration: Family::new_with_constructor(long),
            first_token: Family::new_with_constructor(long),
            output_token: Family::new_with_constructor(short),
            stages: Family::new_with_constructor(short),
            tokens: Family::default(),
            stop_strings: Counter::default(),
            authentications: Authentications::default(),
            reloads: Reloads::default(),
            findings: Family::default(),
            choices: Choices::new(),
            resumptions: resumptions::Families::new(),
            retries: Family::default(),
            hedges: Family::default(),
            upstream: Family::default(),
        });
        metrics.register(|registry| new.register(registry.sub_registry_with_prefix("weft_gateway")));
        new
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("tokens", "Tokens in prompts and answers", self.tokens.clone());
        registry.register("stop_string_hits", "Answers that a stop string ended", self.stop_strings.clone());
        registry.register("safety_findings", "What the safety filter found", self.findings.clone());
        self.choices.register(registry);
        self.resumptions.register(registry);
        self.authentications.register(registry);
        self.reloads.register(registry);
        registry.register("retries", "Calls that were made again", self.retries.clone());
        let help = "Calls of which a second copy was made because they took unusually long";
        registry.register("hedges", help, self.hedges.clone());
        registry.register(
            "upstream_in_flight",
            "Calls to a service that are not over",
            self.upstream.clone(),
        );
        let seconds = Unit::Seconds;
        registry.register_with_unit(
            "request_duration",
            "From arrival to the end of the answer",
            seconds.clone(),
            self.duration.clone(),
        );
        registry.register_with_unit(
            "time_to_first_token",
            "From arrival to the first text that left",
            seconds.clone(),
            self.first_token.clone(),
        );
        registry.register_with_unit(
            "time_per_output_token",
            "From the first text to the end, for each token after the first",
            seconds.clone(),
            self.output_token.clone(),
        );
        registry.register_with_unit("stage_duration", "How long stages take", seconds, self.stages.clone());
    }

    /// The retries of calls to a service.
    pub(crate) fn retries(&self, service: Peer) -> Counter {
        self.retries.get_or_create(&PeerLabel { service }).clone()
    }

    /// The answers that went on at another replica of a service, or could not.
    pub(crate) fn resumptions(&self, service: Peer) -> Resumptions {
        self.resumptions.of(service)
    }

    /// The calls to a service that were made twice.
    pub(crate) fn hedges(&self, service: Peer) -> Counter {
        self.hedges.get_or_create(&PeerLabel { service }).clone()
    }

    /// The calls to a service that are not over.
    pub(crate) fn upstream_in_flight(&self, service: Peer) -> Gauge {
        self.upstream.get_or_create(&PeerLabel { service }).clone()
    }

    /// The tokens of prompts for a model.
    pub(crate) fn input_tokens(&self, model: &str) -> Counter {
        self.tokens.get_or_create(&TokenKind { model: model.to_owned(), kind: "input" }).clone()
    }

    /// The tokens that a model generated.
    pub(crate) fn output_tokens(&self, model: &str) -> Counter {
        self.tokens.get_or_create(&TokenKind { model: model.to_owned(), kind: "output" }).clone()
    }

    /// Counts what the safety filter found in a prompt or a completion.
    pub(crate) fn count_findings(&self, direction: &'static str, findings: &Findings) {
        for (category, count) in findings {
            let label = Finding { category: category.clone(), direction };
            self.findings.get_or_create(&label).inc_by((*count).into());
        }
    }

    /// The durations of a stage.
    pub(crate) fn stage(&self, stage: &'static str) -> Histogram {
        self.stages.get_or_create(&Stage { stage }).clone()
    }
}
