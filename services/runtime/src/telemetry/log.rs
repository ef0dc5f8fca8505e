//! Lines of the log, on stderr, each with the trace that it belongs to.

use std::fmt;

use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultFields, Format, Json, Writer},
        time::{FormatTime as _, SystemTime},
        writer::MakeWriter,
    },
    registry::LookupSpan,
};

use super::LogFormat;

pub(super) fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    layer_to(std::io::stderr, format)
}

fn layer_to<S, W>(writer: W, format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    match format {
        LogFormat::Text => Box::new(lines.event_format(TextLine).fmt_fields(Unwritten)),
        LogFormat::Json => {
            let json =
                Format::default().json().flatten_event(true).with_current_span(false).with_span_list(false);
            Box::new(lines.json().event_format(JsonLine(json)).fmt_fields(Unwritten))
        }
    }
}

/// The fields of spans, as lines show them: not at all. A line names its trace, and there they are.
struct Unwritten;

impl<'writer> FormatFields<'writer> for Unwritten {
    fn format_fields<R: RecordFields>(&self, _: Writer<'writer>, _: R) -> fmt::Result {
        Ok(())
    }
}

/// The span that is running on this thread, where there is one.
fn current() -> Option<SpanContext> {
    let context = opentelemetry::Context::current();
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// `2026-01-01T00:00:00.000000Z  INFO weft_runtime: message field=value trace_id=…`
struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut line)?;
        write!(line, " {:>5} {}: ", event.metadata().level(), event.metadata().target())?;
        DefaultFields::new().format_fields(line.by_ref(), event)?;
        if let Some(span) = current() {
            write!(line, " trace_id={}", span.trace_id())?;
        }
        writeln!(line)
    }
}

/// tracing-subscriber's object, with two more members.
struct JsonLine(Format<Json>);

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = String::new();
        self.0.format_event(ctx, Writer::new(&mut object), event)?;
        let members = object.trim_end().strip_suffix('}').ok_or(fmt::Error)?;
        write!(line, "{members}")?;
        if let Some(span) = current() {
            write!(line, r#","trace_id":"{}","span_id":"{}""#, span.trace_id(), span.span_id())?;
        }
        writeln!(line, "}}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::telemetry::{fields, test};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = layer_to(move || writer.clone(), format);
        let subscriber = test::Recorder::default().subscriber().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!(target: fields::SPANS, "rpc", field = "of the span")
                .in_scope(|| tracing::info!(answer = 42, "said"));
        });
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains("of the span"), "{text}");
        text
    }

    #[test]
    fn a_line_of_json_names_its_trace() {
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!(line["answer"], 42);
        assert_eq!(line["message"], "said");
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(line["span_id"].as_str().unwrap().len(), 16);
    }

    #[test]
    fn a_line_of_text_names_its_trace() {
        let line = logged(LogFormat::Text);
        assert!(
            line.contains("INFO weft_runtime::telemetry::log::tests: said answer=42 trace_id="),
            "{line}"
        );
    }
}
