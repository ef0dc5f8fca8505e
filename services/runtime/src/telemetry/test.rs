//! Spans kept in memory, for tests.
//!
//! `tracing` has one subscriber a process, or one a thread. A test on a current-thread runtime records what happens on
//! its own thread with [`Recorder::install`]; a test on many threads shares [`global`] with the others and looks for
//! its own trace id.

use std::sync::{Arc, OnceLock};

use opentelemetry::trace::TraceId;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::sync::watch;
use tracing::{Subscriber, subscriber::DefaultGuard};
use tracing_subscriber::{layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _};

use super::{filter, span_layer};

/// Keeps the spans that end. Clones keep the same ones.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    spans: Arc<watch::Sender<Vec<SpanData>>>,
}

impl Recorder {
    /// Records this thread's spans while the guard lives.
    pub fn install() -> (Self, DefaultGuard) {
        Self::install_filtered("info")
    }

    /// Records as a process does whose `telemetry.log` is this. One that is no filter lets nothing but errors through.
    pub fn install_filtered(log: &str) -> (Self, DefaultGuard) {
        global();
        let recorder = Self::default();
        let guard = recorder.filtered(log).set_default();
        (recorder, guard)
    }

    /// A subscriber that records, filtered as in production, for more layers.
    pub fn subscriber(&self) -> impl Subscriber + for<'span> LookupSpan<'span> + Send + Sync + use<> {
        self.filtered("info")
    }

    fn filtered(&self, log: &str) -> impl Subscriber + for<'span> LookupSpan<'span> + Send + Sync + use<> {
        let provider = SdkTracerProvider::builder().with_simple_exporter(Exporter(self.clone())).build();
        let filter = filter::parse(log).unwrap_or_default();
        tracing_subscriber::registry().with(filter).with(span_layer(&provider))
    }

    /// The spans that have ended, in that order.
    pub fn spans(&self) -> Vec<SpanData> {
        self.spans.borrow().clone()
    }

    /// The spans of one trace that have ended.
    pub fn trace(&self, trace: TraceId) -> Vec<SpanData> {
        self.spans().into_iter().filter(|span| span.span_context.trace_id() == trace).collect()
    }

    /// Waits until the spans that have ended are as wanted, and answers with them.
    pub async fn until(&self, wanted: impl Fn(&[SpanData]) -> bool) -> Vec<SpanData> {
        let mut spans = self.spans.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        spans.wait_for(|spans| wanted(spans)).await.map(|spans| spans.clone()).unwrap_or_default()
    }
}

/// The process's one recorder, installed by the first who asks.
///
/// Also to be asked for before a test sets a subscriber for its own thread: while there is just one subscriber, `tracing`
/// asks the thread that first meets a span whether anybody wants it, and a thread without one says no for all.
pub fn global() -> &'static Recorder {
    static RECORDER: OnceLock<Recorder> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder = Recorder::default();
        // Somebody else's subscriber stays; then this records nothing, and the test that waits for a span says so.
        let _ = recorder.subscriber().try_init();
        recorder
    })
}

/// An attribute of a span, as text.
pub fn attribute(span: &SpanData, key: &str) -> Option<String> {
    span.attributes
        .iter()
        .find(|attribute| attribute.key.as_str() == key)
        .map(|found| found.value.to_string())
}

#[derive(Debug)]
struct Exporter(Recorder);

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.spans.send_modify(|spans| spans.extend(batch));
        Ok(())
    }
}
