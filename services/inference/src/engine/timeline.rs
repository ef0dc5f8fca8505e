//! When a request reached which stage, in its own numbers and in its trace.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Span, field::Empty};
use weft_runtime::telemetry::fields::SPANS;

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From arrival until it first ran.
    pub queue: Duration,
    /// From first run until the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// How often it was preempted and computed again.
    pub preemptions: u32,
}

/// What a first token waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// From arrival until the request first ran.
    pub queue: Duration,
    /// From first run until the first token.
    pub prefill: Duration,
}

/// A request's way through the engine. Each stage is a span below the call's own.
#[derive(Debug)]
pub(super) struct Timeline {
    call: Span,
    stage: Span,
    arrived: Instant,
    began: Option<Instant>,
    first_token: Option<Instant>,
}

impl Timeline {
    /// A request that arrives now, in the current span.
    pub(super) fn arrive(priority: i32) -> Self {
        let call = Span::current();
        let stage = tracing::info_span!(target: SPANS, parent: &call, "queue", weft.priority = priority);
        Self { call, stage, arrived: Instant::now(), began: None, first_token: None }
    }

    /// The call's span: what a step's span points to.
    pub(super) fn call(&self) -> &Span {
        &self.call
    }

    /// Notes that it runs. Answers how long it waited if it runs for the first time.
    pub(super) fn begin(&mut self, now: Instant, model: &str, prompt_tokens: usize) -> Option<Duration> {
        if self.began.is_some() {
            return None;
        }
        self.began = Some(now);
        self.stage = tracing::info_span!(
            target: SPANS,
            parent: &self.call,
            "prefill",
            gen_ai.request.model = model,
            gen_ai.usage.input_tokens = count(prompt_tokens),
            gen_ai.usage.cache_read.input_tokens = Empty,
        );
        Some(now - self.arrived)
    }

    /// Notes the first token, and how many tokens of the prompt were in the cache before. Answers what it
    /// waited for.
    pub(super) fn first_token(&mut self, now: Instant, model: &str, cached: usize) -> Waited {
        self.stage.record("gen_ai.usage.cache_read.input_tokens", count(cached));
        self.first_token = Some(now);
        tracing::debug!(parent: &self.call, "first_token");
        self.stage = tracing::info_span!(
            target: SPANS,
            parent: &self.call,
            "decode",
            gen_ai.request.model = model,
            gen_ai.usage.output_tokens = Empty,
            gen_ai.response.finish_reasons = Empty,
            weft.preemptions = Empty,
        );
        self.waited(now)
    }

    /// Notes the end, and where the time went.
    pub(super) fn finish(&self, now: Instant, preemptions: u32, output: usize, reason: &str) -> Timings {
        self.stage.record("gen_ai.usage.output_tokens", count(output));
        self.stage.record("gen_ai.response.finish_reasons", reason);
        self.stage.record("weft.preemptions", i64::from(preemptions));
        let first_token = self.first_token.unwrap_or(now);
        let Waited { queue, prefill } = self.waited(first_token);
        Timings { queue, prefill, decode: now - first_token, preemptions }
    }

    fn waited(&self, first_token: Instant) -> Waited {
        let began = self.began.unwrap_or(first_token);
        Waited { queue: began - self.arrived, prefill: first_token - began }
    }
}

/// A count as a span takes it: its numbers are i64, and what is not becomes text.
fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
