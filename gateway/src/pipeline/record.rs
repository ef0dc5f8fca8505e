//! What is kept of a request: its span and its metrics, however it ends. Never its text.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt as _, poll};
use tokio::time::Instant;
use tonic::Code;
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use weft_runtime::{Deadline, status::code_name, telemetry::fields};

use super::Events;
use crate::{
    answer::{Event, Finished, Usage},
    error::Error,
    inbound::admission::Permit,
    latency::{Latency, Phase, Progress},
    metrics::{Metrics, Outcome, Work},
    request::Scope,
};

/// Records how a request ends, exactly once; dropping it before that is how a caller leaves.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Arc<Metrics>,
    work: Work,
    begun: Instant,
    deadline: Option<Deadline>,
    over: bool,
}

impl Record {
    pub(super) fn begin(metrics: &Arc<Metrics>, scope: &Scope, operation: &'static str, model: &str) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            work: Work { operation, model: model.to_owned() },
            begun: Instant::now(),
            deadline: scope.deadline,
            over: false,
        }
    }

    /// Records a failure, and hands it on.
    pub(super) fn fail(mut self, error: Error) -> Error {
        self.end(error.code(), "");
        error
    }

    /// Records that there was an answer without a stream.
    pub(super) fn done(mut self) {
        self.end(Code::Ok, "");
    }

    /// Watches so many answers until their end, whatever that is. They are under way when this returns: the first token is
    /// on its way to the tokenizer before the caller is told that there is one.
    pub(super) async fn over(
        self,
        events: Events,
        answers: u32,
        span: Span,
        held: (Permit, Clock),
    ) -> Events {
        let (permit, clock) = held;
        let usage = Usage::default();
        let recorded =
            Recorded { events, record: self, span, first: None, left: answers, usage, permit, clock };
        let mut recorded = recorded.peekable();
        let _ = poll!(Pin::new(&mut recorded).peek());
        recorded.boxed()
    }

    fn end(&mut self, code: Code, finish_reason: &'static str) {
        self.over = true;
        let Work { operation, model } = self.work.clone();
        let outcome = Outcome { operation, model, finish_reason, code: code_name(code) };
        self.metrics.duration.get_or_create(&outcome).observe(self.begun.elapsed().as_secs_f64());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.over {
            let expired = self.deadline.is_some_and(|deadline| deadline.remaining().is_none());
            self.end(if expired { Code::DeadlineExceeded } else { Code::Cancelled }, "");
        }
    }
}

/// An answer that is watched.
struct Recorded {
    events: Events,
    record: Record,
    span: Span,
    /// When the first text left.
    first: Option<Instant>,
    /// Answers that have not ended.
    left: u32,
    /// What those that have ended consumed.
    usage: Usage,
    /// Dropped after the stages, so that the room is free when inference is.
    permit: Permit,
    clock: Clock,
}

/// Knows what is waited for between two polls of an answer.
#[derive(Debug)]
pub(super) struct Clock {
    latency: Latency,
    progress: Progress,
}

impl Clock {
    pub(super) fn new(latency: Latency, progress: Progress) -> Self {
        // Nobody has asked for the answer yet.
        latency.enter(Phase::Client);
        Self { latency, progress }
    }

    fn polled<T>(&self, poll: &Poll<T>) {
        self.latency.enter(if poll.is_ready() { Phase::Client } else { self.progress.waits_for() });
    }
}

impl Recorded {
    fn delta(&mut self) {
        if self.first.is_none() {
            self.first = Some(Instant::now());
            self.clock.progress.released();
            let waited = self.record.begun.elapsed();
            self.record.metrics.first_token.get_or_create(&self.record.work).observe(waited.as_secs_f64());
        }
    }

    fn finished(&mut self, finished: &Finished) {
        self.usage += finished.usage;
        self.permit.answered(finished.usage.completion);
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return;
        }
        let usage = self.usage;
        // A span's numbers are i64: what is not becomes text.
        self.span.record("gen_ai.usage.input_tokens", i64::from(usage.prompt));
        self.span.record("gen_ai.usage.output_tokens", i64::from(usage.completion));
        self.span.record("gen_ai.response.finish_reasons", finished.reason.name());
        if let Some(pace) = self.first.and_then(|first| pace(first.elapsed(), usage.completion)) {
            self.record.metrics.output_token.get_or_create(&self.record.work).observe(pace);
        }
        self.record.end(Code::Ok, finished.reason.name());
    }
}

impl Drop for Recorded {
    /// An exporter takes a span's last exit for its end, and nobody enters this one while the answer flows.
    fn drop(&mut self) {
        self.span.in_scope(|| ());
    }
}

/// Seconds for each token after the first, if there are any.
fn pace(time: Duration, tokens: u32) -> Option<f64> {
    (tokens > 1).then(|| time.as_secs_f64() / f64::from(tokens - 1))
}

impl Stream for Recorded {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.clock.latency.enter(Phase::Gateway);
        let event = self.events.poll_next_unpin(cx);
        self.clock.polled(&event);
        let event = ready!(event);
        match &event {
            Some(Ok(Event::Delta { .. })) => self.delta(),
            Some(Ok(Event::Finished(finished))) => self.finished(finished),
            Some(Err(error)) => {
                self.span.record("error.type", code_name(error.code()));
                self.record.end(error.code(), "");
            }
            None => {}
        }
        Poll::Ready(event)
    }
}

/// The span of a generation, from the call to inference until the last token has left.
pub(super) fn generation_span(scope: &Scope, operation: &'static str, model: &str) -> Span {
    info_span!(
        target: fields::SPANS,
        "generate",
        request_id = scope.request_id,
        gen_ai.operation.name = operation,
        gen_ai.request.model = model,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        gen_ai.response.finish_reasons = Empty,
        error.type = Empty,
    )
}

/// Notes in a generation's span that its first token has come.
pub(super) fn first_token(span: &Span) {
    span.add_event("first_token", Vec::new());
}
