//! Spans to a collector, and an account of those that never arrive.
//!
//! The batch processor has a bounded queue and its own thread, so serving never waits for a collector. What does not
//! fit, and what could not be sent, is counted here: the SDK only logs it, once a batch and for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter,
        SpanProcessor,
    },
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::TelemetryConfig;
use crate::{BoxError, metrics::Metrics};

/// Spans that wait for the exporter: about a minute of a busy process, 10 MB.
const QUEUE: usize = 8192;
/// Spans in one message.
const BATCH: usize = 512;
/// How long a span may wait for company.
const DELAY: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a text is an address to which spans can be sent.
pub(super) fn is_endpoint(text: &str) -> bool {
    let uri = text.parse::<http::Uri>().ok();
    uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some())
}

/// What makes spans and, where an endpoint is given, sends them.
pub(super) fn provider(
    service: &'static str,
    config: &TelemetryConfig,
    metrics: &Metrics,
) -> Result<SdkTracerProvider, BoxError> {
    let builder = SdkTracerProvider::builder().with_resource(resource(service));
    if config.otlp_endpoint.is_empty() {
        // A caller's trace passes through; none begins here, since nobody would see it.
        let pass_on = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        return Ok(builder.with_sampler(pass_on).build());
    }
    let exporter =
        OtlpExporter::builder().with_tonic().with_endpoint(&config.otlp_endpoint).with_timeout(TIMEOUT);
    let account = Account::register(metrics, &config.otlp_endpoint);
    let exporter = CountedExporter { inner: exporter.build()?, account: Arc::clone(&account) };
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batch).build();
    Ok(builder
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio))))
        .with_span_processor(CountedProcessor { inner, account })
        .build())
}

fn resource(service: &'static str) -> Resource {
    let instance = format!("{:016x}", rand::random::<u64>());
    Resource::builder()
        .with_service_name(format!("weft-{service}"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", instance))
        .build()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// What became of the spans.
#[derive(Debug)]
struct Account {
    endpoint: String,
    spans: Family<OutcomeLabels, Counter>,
    waiting: AtomicUsize,
    /// Whether the last batch was lost: the log hears of changes, not of batches.
    failing: AtomicBool,
}

impl Account {
    fn register(metrics: &Metrics, endpoint: &str) -> Arc<Self> {
        let spans = Family::default();
        metrics.register(|registry| {
            let help = "Spans exported, failed to be exported, and dropped because the queue was full";
            registry.register("weft_telemetry_spans", help, spans.clone());
        });
        let (waiting, failing) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { endpoint: endpoint.to_owned(), spans, waiting, failing })
    }

    fn count(&self, outcome: &'static str, spans: usize) {
        self.spans.get_or_create(&OutcomeLabels { outcome }).inc_by(spans as u64);
    }

    fn sent(&self, spans: usize, result: &OTelSdkResult) {
        let failed = result.is_err();
        self.count(if failed { "failed" } else { "exported" }, spans);
        let changed = self.failing.swap(failed, Ordering::Relaxed) != failed;
        match result {
            Err(error) if changed => {
                tracing::warn!(endpoint = self.endpoint, %error, "spans cannot be sent and are lost");
            }
            Ok(()) if changed => tracing::info!(endpoint = self.endpoint, "spans are sent again"),
            _ => {}
        }
    }
}

#[derive(Debug)]
struct CountedProcessor<P> {
    inner: P,
    account: Arc<Account>,
}

impl<P: SpanProcessor> SpanProcessor for CountedProcessor<P> {
    fn on_start(&self, span: &mut Span, context: &opentelemetry::Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        // The same bound as the queue's own, so that what it would drop is dropped here, and counted.
        if self.account.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.account.waiting.fetch_sub(1, Ordering::Relaxed);
            self.account.count("dropped", 1);
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[derive(Debug)]
struct CountedExporter<E> {
    inner: E,
    account: Arc<Account>,
}

impl<E: SpanExporter> SpanExporter for CountedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.account.waiting.fetch_sub(spans, Ordering::Relaxed);
        let result = self.inner.export(batch).await;
        self.account.sent(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};

    use super::*;

    /// A queue whose exporter never gets to it.
    #[derive(Debug)]
    struct Stuck;

    impl SpanProcessor for Stuck {
        fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}
        fn on_end(&self, _: SpanData) {}
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[derive(Debug)]
    struct Refuses;

    impl SpanExporter for Refuses {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Err(opentelemetry_sdk::error::OTelSdkError::InternalFailure("nobody there".to_owned()))
        }
    }

    #[test]
    fn spans_that_do_not_fit_into_the_queue_are_counted() {
        let metrics = Metrics::default();
        let account = Account::register(&metrics, "http://collector");
        let processor = CountedProcessor { inner: Stuck, account };
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        for _ in 0..QUEUE + 5 {
            drop(provider.tracer("test").start("span"));
        }
        let page = metrics.encode();
        assert!(page.contains("weft_telemetry_spans_total{outcome=\"dropped\"} 5\n"), "{page}");
    }

    #[test]
    fn spans_that_cannot_be_sent_are_counted_and_make_room() {
        let metrics = Metrics::default();
        let account = Account::register(&metrics, "http://collector");
        let exporter = CountedExporter { inner: Refuses, account: Arc::clone(&account) };
        let inner = opentelemetry_sdk::trace::SimpleSpanProcessor::new(exporter);
        let processor = CountedProcessor { inner, account: Arc::clone(&account) };
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        drop(provider.tracer("test").start("span"));
        let page = metrics.encode();
        assert!(page.contains("weft_telemetry_spans_total{outcome=\"failed\"} 1\n"), "{page}");
        assert_eq!(account.waiting.load(Ordering::Relaxed), 0);
    }
}
