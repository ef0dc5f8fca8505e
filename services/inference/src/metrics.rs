//! What the engine counts and measures.

mod prefix;

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use weft_runtime::metrics::Metrics;

use crate::model::DeviceMemory;
pub use prefix::PrefixMetrics;

/// A label and its value.
type Label = [(&'static str, &'static str); 1];

/// The labels of how the cache is cut.
type Shape = [(&'static str, String); 2];

/// Which device.
type Device = [(&'static str, String); 1];

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Taking what arrived, and planning.
    Schedule,
    /// The model.
    Forward,
    /// Choosing tokens and handing them out.
    Sample,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At an end token.
    Stop,
    /// At its greatest length.
    Length,
    /// With an embedding.
    Embedded,
    /// With the likelihoods of its tokens.
    Scored,
    /// The caller went away.
    Aborted,
    /// The deadline passed.
    Expired,
    /// The deadline could not have been met.
    Hopeless,
    /// Its step failed.
    StepFailed,
    /// No token could be chosen, or no embedding made, from what the model gave.
    UnusableOutput,
    /// Its constraint could not be followed further.
    ConstraintFailed,
    /// The engine stopped.
    Stopped,
    /// No place was free.
    QueueFull,
    /// The tenant had its share of the places.
    ShareFull,
    /// The process was draining.
    Draining,
}

impl Outcome {
    fn label(self) -> Label {
        let word = match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Embedded => "embedded",
            Self::Scored => "scored",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
            Self::Hopeless => "hopeless",
            Self::StepFailed => "step_failed",
            Self::UnusableOutput => "unusable_output",
            Self::ConstraintFailed => "constraint_failed",
            Self::Stopped => "stopped",
            Self::QueueFull => "queue_full",
            Self::ShareFull => "share_full",
            Self::Draining => "draining",
        };
        [("outcome", word)]
    }
}

/// The metrics of an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    /// Requests that wait.
    pub waiting: Gauge,
    /// Requests that run.
    pub running: Gauge,
    /// Tenants whose accounts are kept.
    pub tenants: Gauge,
    /// The held part of the cache, from 0 to 1.
    pub cache_use: Gauge<f64, AtomicU64>,
    /// Blocks of the cache that are held.
    pub blocks_used: Gauge,
    /// Blocks of the cache.
    pub blocks_total: Gauge,
    /// Rows of a step.
    pub step_rows: Histogram,
    /// From arrival to the first step.
    pub queue_time: Histogram,
    /// From the first step to the first token.
    pub prefill_time: Histogram,
    /// From the first token to the last.
    pub decode_time: Histogram,
    /// From arrival to the first token.
    pub time_to_first_token: Histogram,
    /// Mean time between tokens of a request, after the first.
    pub time_per_output_token: Histogram,
    /// Preemptions.
    pub preemptions: Counter,
    /// Tokens that were prefilled, those computed again included.
    pub prefilled: Counter,
    /// Tokens that were generated.
    pub generated: Counter,
    /// The prefix cache.
    pub prefix: PrefixMetrics,
    guesses: Counter,
    right_guesses: Counter,
    schedule: Histogram,
    forward: Histogram,
    sample: Histogram,
    ended: Family<Label, Counter>,
    cache_shape: Family<Shape, Gauge>,
    device_used: Family<Device, Gauge>,
    device_total: Family<Device, Gauge>,
}

/// From 0.1 ms, doubling, to 3.3 s: parts of a step.
fn step_buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_1, 2.0, 16)
}

/// From 1 ms, doubling, to 524 s: what a caller waits for.
fn wait_buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.001, 2.0, 20)
}

impl EngineMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.register(Self::registered)
    }

    fn registered(registry: &mut Registry) -> Self {
        let parts = Family::<Label, Histogram>::new_with_constructor(|| Histogram::new(step_buckets()));
        let tokens = Family::<Label, Counter>::default();
        let part = |part| parts.get_or_create_owned(&[("part", part)]);
        let kind = |kind| tokens.get_or_create_owned(&[("kind", kind)]);
        let this = Self {
            waiting: Gauge::default(),
            running: Gauge::default(),
            tenants: Gauge::default(),
            cache_use: Gauge::default(),
            blocks_used: Gauge::default(),
            blocks_total: Gauge::default(),
            step_rows: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            queue_time: Histogram::new(wait_buckets()),
            prefill_time: Histogram::new(wait_buckets()),
            decode_time: Histogram::new(wait_buckets()),
            time_to_first_token: Histogram::new(wait_buckets()),
            time_per_output_token: Histogram::new(step_buckets()),
            preemptions: Counter::default(),
            prefilled: kind("prefilled"),
            generated: kind("generated"),
            prefix: PrefixMetrics::registered(registry),
            guesses: Counter::default(),
            right_guesses: Counter::default(),
            schedule: part("schedule"),
            forward: part("forward"),
            sample: part("sample"),
            ended: Family::default(),
            cache_shape: Family::default(),
            device_used: Family::default(),
            device_total: Family::default(),
        };
        registry.register("weft_step_seconds", "How long each part of a step took", parts);
        registry.register("weft_tokens", "Tokens prefilled and generated", tokens);
        this.register_rest(registry);
        this.register_aliases(registry);
        this
    }

    fn register_rest(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("weft_requests_waiting", "Requests that wait for a place in the batch", &self.waiting);
        gauge("weft_requests_running", "Requests in the batch", &self.running);
        gauge("weft_tenants_known", "Tenants whose share of the engine is kept in mind", &self.tenants);
        gauge("weft_kv_blocks_used", "Blocks of the KV cache that are held", &self.blocks_used);
        gauge("weft_kv_blocks_total", "Blocks of the KV cache", &self.blocks_total);
        let mut histogram =
            |name: &str, help: &str, histogram: &Histogram| registry.register(name, help, histogram.clone());
        histogram("weft_step_rows", "Rows of a step", &self.step_rows);
        histogram("weft_queue_seconds", "From arrival to the first step", &self.queue_time);
        histogram("weft_prefill_seconds", "From the first step to the first token", &self.prefill_time);
        histogram("weft_decode_seconds", "From the first token to the last", &self.decode_time);
        let (first, each) = (&self.time_to_first_token, &self.time_per_output_token);
        histogram("weft_time_to_first_token_seconds", "From arrival to the first token", first);
        histogram("weft_time_per_output_token_seconds", "Mean time between a request's tokens", each);
        registry.register(
            "weft_preemptions",
            "Sequences that gave up their blocks",
            self.preemptions.clone(),
        );
        let (guesses, right) = (self.guesses.clone(), self.right_guesses.clone());
        registry.register("weft_speculated_tokens", "Tokens that were guessed and checked", guesses);
        registry.register("weft_speculated_tokens_accepted", "Tokens that were guessed right", right);
        registry.register("weft_requests_ended", "Requests by how they ended", self.ended.clone());
        let help = "Memory of the GPU that is in use, by whoever";
        registry.register("weft_device_memory_used_bytes", help, self.device_used.clone());
        let help = "Memory of the GPU";
        registry.register("weft_device_memory_total_bytes", help, self.device_total.clone());
    }

    /// The names by which the Gateway API Inference Extension's endpoint picker knows these gauges: those of vLLM.
    fn register_aliases(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("vllm:num_requests_waiting", "As weft_requests_waiting", &self.waiting);
        gauge("vllm:num_requests_running", "As weft_requests_running", &self.running);
        let help = "Part of the KV cache that is held, from 0 to 1";
        registry.register("vllm:kv_cache_usage_perc", help, self.cache_use.clone());
        let help = "How the KV cache is cut; always 1";
        registry.register("vllm:cache_config_info", help, self.cache_shape.clone());
    }

    /// Notes that so many tokens were guessed, and so many of them right.
    pub fn guessed(&self, tokens: u64, right: u64) {
        self.guesses.inc_by(tokens);
        self.right_guesses.inc_by(right);
    }

    /// Says how the cache is cut, which does not change.
    pub fn cache_is(&self, blocks: usize, block_size: usize) {
        self.blocks_total.set(blocks as i64);
        let labels = [("block_size", block_size.to_string()), ("num_gpu_blocks", blocks.to_string())];
        self.cache_shape.get_or_create(&labels).set(1);
    }

    /// Says how much of a device's memory is in use.
    pub fn device_memory_is(&self, device: &str, memory: DeviceMemory) {
        let labels = [("device", device.to_owned())];
        self.device_used.get_or_create(&labels).set(memory.total.saturating_sub(memory.free) as i64);
        self.device_total.get_or_create(&labels).set(memory.total as i64);
    }

    /// Notes how long a part of a step took.
    pub fn part_took(&self, part: Part, time: Duration) {
        let histogram = match part {
            Part::Schedule => &self.schedule,
            Part::Forward => &self.forward,
            Part::Sample => &self.sample,
        };
        histogram.observe(time.as_secs_f64());
    }

    /// Notes how a request ended.
    pub fn ended(&self, outcome: Outcome) {
        self.ended.get_or_create(&outcome.label()).inc();
    }

    /// How many requests ended so.
    pub fn count_of(&self, outcome: Outcome) -> u64 {
        self.ended.get_or_create(&outcome.label()).get()
    }
}
