//! What Jaeger's query API answers: `{"data": [{"traceID", "spans", "processes"}]}`. Times are in microseconds.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

/// A trace.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// 32 hex digits.
    pub(crate) id: String,
    /// Its spans, in no order.
    pub(crate) spans: Vec<Span>,
}

/// One span of a trace.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// 16 hex digits.
    pub(crate) id: String,
    /// The span that it is part of, if it names one.
    pub(crate) parent: Option<String>,
    /// The service that recorded it.
    pub(crate) service: String,
    /// What was done.
    pub(crate) name: String,
    /// When it began, in microseconds since 1970.
    pub(crate) start: u64,
    /// How long it took, in microseconds.
    pub(crate) duration: u64,
    /// What happened within it.
    pub(crate) events: Vec<Event>,
    /// What went wrong, if something did.
    pub(crate) error: Option<String>,
}

/// Something that happened within a span.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When, in microseconds since 1970.
    pub(crate) time: u64,
    /// What.
    pub(crate) name: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    data: Option<Vec<WireTrace>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireTrace {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<WireSpan>,
    processes: BTreeMap<String, WireProcess>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireProcess {
    service_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSpan {
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: String,
    #[serde(default)]
    references: Vec<WireReference>,
    start_time: u64,
    duration: u64,
    #[serde(default)]
    tags: Vec<WireTag>,
    #[serde(default)]
    logs: Vec<WireLog>,
    #[serde(rename = "processID")]
    process_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireReference {
    ref_type: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct WireTag {
    key: String,
    value: Value,
}

#[derive(Deserialize)]
struct WireLog {
    timestamp: u64,
    fields: Vec<WireTag>,
}

/// Reads an answer of `/api/traces` or `/api/traces/ID`.
///
/// # Errors
/// The text is no such answer.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Trace>> {
    let answer: Answer = serde_json::from_str(text).context("Jaeger's answer cannot be understood")?;
    Ok(answer.data.unwrap_or_default().into_iter().map(Trace::from).collect())
}

impl Trace {
    /// When it began, in microseconds since 1970.
    pub(crate) fn start(&self) -> u64 {
        self.spans.iter().map(|span| span.start).min().unwrap_or(0)
    }

    /// How long it took, in microseconds.
    pub(crate) fn duration(&self) -> u64 {
        self.spans.iter().map(Span::end).max().unwrap_or(0).saturating_sub(self.start())
    }

    /// The span that began first, and so the outermost one.
    pub(crate) fn root(&self) -> Option<&Span> {
        let known = |id: &String| self.spans.iter().any(|span| span.id == *id);
        let roots = self.spans.iter().filter(|span| !span.parent.as_ref().is_some_and(known));
        roots.min_by_key(|span| span.start)
    }

    /// How many spans have an error.
    pub(crate) fn errors(&self) -> usize {
        self.spans.iter().filter(|span| span.error.is_some()).count()
    }

    /// Whether a person or a program asked for something, rather than for health or reflection.
    pub(crate) fn is_request(&self) -> bool {
        self.root().is_some_and(|root| {
            !root.name.contains("grpc.health.") && !root.name.contains("grpc.reflection.")
        })
    }
}

impl Span {
    /// When it ended, in microseconds since 1970.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.duration)
    }
}

impl From<WireTrace> for Trace {
    fn from(trace: WireTrace) -> Self {
        let service =
            |id: &str| trace.processes.get(id).map_or("unknown", |p| p.service_name.as_str()).to_owned();
        let spans = trace.spans.into_iter().map(|span| {
            let service = service(&span.process_id);
            Span::from_wire(span, service)
        });
        Self { id: trace.trace_id, spans: spans.collect() }
    }
}

impl Span {
    fn from_wire(span: WireSpan, service: String) -> Self {
        let parent = span.references.iter().find(|reference| reference.ref_type == "CHILD_OF");
        Self {
            parent: parent.map(|reference| reference.span_id.clone()),
            error: error(&span.tags),
            events: span.logs.iter().map(event).collect(),
            id: span.span_id,
            service,
            name: span.operation_name,
            start: span.start_time,
            duration: span.duration,
        }
    }
}

fn tag<'a>(tags: &'a [WireTag], key: &str) -> Option<&'a Value> {
    tags.iter().find(|tag| tag.key == key).map(|tag| &tag.value)
}

/// What went wrong: the description or the status code of a span that is marked as failed.
fn error(tags: &[WireTag]) -> Option<String> {
    let marked = tag(tags, "error").is_some_and(|value| *value == Value::Bool(true) || value == "true");
    let failed = tag(tags, "otel.status_code").is_some_and(|value| value == "ERROR");
    if !marked && !failed {
        return None;
    }
    let words = ["otel.status_description", "rpc.response.status_code", "error.type"];
    let text = words.into_iter().find_map(|key| tag(tags, key)).map_or_else(|| "failed".to_owned(), text);
    Some(text)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn event(log: &WireLog) -> Event {
    let name = tag(&log.fields, "event").or_else(|| tag(&log.fields, "message"));
    Event { time: log.timestamp, name: name.map_or_else(|| "event".to_owned(), text) }
}
