//! Logs and traces: one global filter, one exporter, names that are constants.
//!
//! Map: `fields` (names), `filter` (what is logged and traced), `log` (lines with trace ids), `otlp` (the exporter and
//! what it loses), `test` (spans kept in memory).
//!
//! Rules: a span stands for something that an operator would time; prompt text is in no span and in no line; a
//! collector that is slow, full or gone costs spans, which are counted, and never time.

pub mod fields;
mod filter;
mod log;
mod otlp;
pub mod test;

use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    Layer, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _,
};

use crate::{
    BoxError,
    config::{FromConfig, Rule, Section, between},
    metrics::Metrics,
};

/// `[telemetry]`.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `otlp_endpoint`: where spans go, by OTLP over gRPC, such as `http://127.0.0.1:4317`. Empty: nowhere. Trace
    /// context is passed on in any case.
    pub otlp_endpoint: String,
    /// `log`: what is logged, as a filter: `info`, or `info,weft_gateway=debug`.
    pub log: String,
    /// `log_format`: `text` or `json`.
    pub log_format: LogFormat,
    /// `sample_ratio`: the share of traces that is recorded where the caller has not decided, from 0 to 1.
    pub sample_ratio: f64,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Everything that happens to the process, nothing that happens to one call.
const LOG: &str = "info";
/// Every trace: whoever pays for storage says less.
const SAMPLE_RATIO: f64 = 1.0;
/// What the last spans may cost an exit.
const FLUSH: Duration = Duration::from_secs(3);

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            log: LOG.to_owned(),
            log_format: LogFormat::Text,
            sample_ratio: SAMPLE_RATIO,
        }
    }
}

impl FromConfig for TelemetryConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Self {
            otlp_endpoint: section.value("otlp_endpoint", String::new(), an_endpoint()),
            log: section.value("log", LOG.to_owned(), a_filter()),
            log_format: section.choice("log_format", LogFormat::Text, &formats),
            sample_ratio: section.value("sample_ratio", SAMPLE_RATIO, between(0.0, 1.0)),
        }
    }
}

fn an_endpoint() -> Rule<String> {
    let words = "must be empty or an address such as \"http://127.0.0.1:4317\"".to_owned();
    Rule { holds: |text, _| text.is_empty() || otlp::is_endpoint(text), bounds: Vec::new(), words }
}

fn a_filter() -> Rule<String> {
    let words = "must be a filter such as \"info\" or \"info,weft_gateway=debug\"".to_owned();
    Rule { holds: |text, _| filter::parse(text).is_ok(), bounds: Vec::new(), words }
}

/// Telemetry that is on. It must be flushed, or the last spans are lost.
#[derive(Debug)]
pub(crate) struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Turns logs and traces on for the whole process. Called within tokio, on which the exporter lives.
    ///
    /// # Errors
    /// An endpoint or a filter that is not usable, or a second call.
    pub(crate) fn start(
        service: &'static str,
        config: &TelemetryConfig,
        metrics: &Metrics,
    ) -> Result<Self, BoxError> {
        let provider = otlp::provider(service, config, metrics)?;
        tracing_subscriber::registry()
            .with(filter::parse(&config.log)?)
            .with(span_layer(&provider))
            .with(log::layer(config.log_format))
            .try_init()?;
        Ok(Self { provider })
    }

    /// Sends what is left, for a bounded time.
    pub(crate) async fn flush(self) {
        // It blocks on the exporter, which needs this runtime's threads.
        let flushed = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// Makes OpenTelemetry spans of `tracing`'s.
fn span_layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    use opentelemetry::trace::TracerProvider as _;
    OpenTelemetryLayer::new(provider.tracer("weft"))
        // Of these a span has no use: its name says where it comes from.
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        // A call's status is what the caller was told, not whether somebody logged an error on the way.
        .with_error_events_to_status(false)
}
