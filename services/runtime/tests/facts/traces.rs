//! Facts 10 to 13.

use std::collections::BTreeSet;

use opentelemetry::trace::{SpanId, SpanKind, Status as SpanStatus, TraceId};
use tonic::{Code, Request};
use weft_runtime::telemetry::test::{Recorder, attribute};

use crate::support::{ENCODE, FAIL, STALL, STREAM, Served, encode, scripts, text};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Fact 10: a layer that reads `grpc-status` from the headers records this stream as OK.
#[tokio::test]
async fn a_stream_that_fails_in_its_trailers_is_recorded_as_failed_on_both_sides() {
    let (recorder, _guard) = Recorder::install();
    let served = Served::new().await;
    let mut stream = served.client().decode_stream(scripts(&[FAIL])).await.unwrap().into_inner();
    text(&mut stream).await;
    assert_eq!(stream.message().await.unwrap_err().code(), Code::DataLoss);

    let spans = recorder.until(|spans| spans.len() == 2).await;
    for span in &spans {
        assert_eq!(span.name, STREAM);
        assert_eq!(attribute(span, "rpc.response.status_code").as_deref(), Some("DATA_LOSS"));
        assert_eq!(attribute(span, "error.type").as_deref(), Some("DATA_LOSS"));
        assert_eq!(span.status, SpanStatus::error("DATA_LOSS"));
    }
}

/// Fact 11: a parent that is set after the span has started is refused.
#[tokio::test]
async fn the_span_of_a_call_belongs_to_its_callers_trace() {
    let (recorder, _guard) = Recorder::install();
    let served = Served::new().await;
    // A call without a span of ours around it: as from a client of somebody else.
    let mut client = served.client();
    client.encode(encode("a")).await.unwrap();
    let spans = recorder.until(|spans| spans.len() == 2).await;
    let of = |kind: SpanKind| spans.iter().find(|span| span.span_kind == kind).unwrap();
    let (theirs, ours) = (of(SpanKind::Client), of(SpanKind::Server));
    assert_eq!(ours.span_context.trace_id(), theirs.span_context.trace_id());
    assert_eq!(ours.parent_span_id, theirs.span_context.span_id());
    assert!(ours.parent_span_is_remote);
    assert_eq!(theirs.parent_span_id, SpanId::INVALID);
}

/// Fact 11 again, by the bytes of W3C's header.
#[tokio::test]
async fn a_traceparent_is_read_as_w3c_writes_it() {
    let (recorder, _guard) = Recorder::install();
    let served = Served::new().await;
    let request = http::Request::post(format!("/{ENCODE}"))
        .header("content-type", "application/grpc")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .body(tonic::body::Body::empty())
        .unwrap();
    // Straight to the process, without a client that would write its own.
    let io = hyper_util::rt::TokioIo::new(served.connector.connect().unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = served.context.tasks.spawn("connection", connection);
    drop(sender.send_request(request).await.unwrap());
    let spans = recorder.until(|spans| spans.len() == 1).await;
    assert_eq!(spans[0].span_context.trace_id(), TraceId::from_hex(TRACE).unwrap());
    assert_eq!(spans[0].parent_span_id, SpanId::from_hex(CALLER).unwrap());
    assert_eq!(attribute(&spans[0], "rpc.response.status_code").as_deref(), Some("INVALID_ARGUMENT"));
    connection.abort();
}

/// Fact 12: one filter serves the log and the traces, so a quiet log must not end tracing.
#[tokio::test]
async fn a_quiet_log_does_not_end_tracing() {
    let (recorder, _guard) = Recorder::install_filtered("error");
    let served = Served::new().await;
    served.client().encode(encode("a")).await.unwrap();
    assert_eq!(recorder.until(|spans| spans.len() == 2).await.len(), 2);
}

/// Fact 12: what the exporter is made of must not trace itself, however loud the log.
#[tokio::test]
async fn a_loud_log_records_no_spans_of_the_libraries_below() {
    let (recorder, _guard) = Recorder::install_filtered("trace");
    let mut served = Served::new().await;
    served.client().encode(encode("a")).await.unwrap();
    // The connections too have ended then, and with them whatever spans they had.
    served.stop();
    served.running.await.unwrap().unwrap();
    let names: BTreeSet<_> = recorder.spans().into_iter().map(|span| span.name).collect();
    assert!(names.contains(ENCODE), "{names:?}");
    assert!(names.is_subset(&BTreeSet::from(["task".into(), ENCODE.into()])), "{names:?}");
}

/// Fact 13: the names in force.
#[tokio::test]
async fn spans_carry_the_names_of_opentelemetrys_conventions() {
    let (recorder, _guard) = Recorder::install();
    let served = Served::new().await;
    served.client().encode(encode("a secret")).await.unwrap();
    let spans = recorder.until(|spans| spans.len() == 2).await;
    for span in &spans {
        assert_eq!(span.name, ENCODE);
        assert_eq!(attribute(span, "rpc.system.name").as_deref(), Some("grpc"));
        assert_eq!(attribute(span, "rpc.method").as_deref(), Some(ENCODE));
        assert_eq!(attribute(span, "rpc.response.status_code").as_deref(), Some("OK"));
        assert_eq!(span.status, SpanStatus::Unset);
        assert!(!format!("{span:?}").contains("secret"));
    }
}

#[tokio::test]
async fn refusals_have_one_span_and_probes_have_none() {
    let (recorder, _guard) = Recorder::install();
    let served = Served::starting(Default::default(), std::future::pending());
    served.client().encode(encode("a")).await.unwrap_err();
    let mut health = tonic_health::pb::health_client::HealthClient::new(served.outgoing());
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    let spans = recorder.until(|spans| spans.len() >= 2).await;
    let served: Vec<_> = spans.iter().filter(|span| span.span_kind == SpanKind::Server).collect();
    assert_eq!(served.len(), 1);
    assert_eq!(attribute(served[0], "rpc.response.status_code").as_deref(), Some("UNAVAILABLE"));
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_span_as_cancelled() {
    let (recorder, _guard) = Recorder::install();
    let served = Served::new().await;
    let mut stream =
        served.client().decode_stream(Request::new(scripts(&[STALL]))).await.unwrap().into_inner();
    text(&mut stream).await;
    assert!(recorder.spans().is_empty(), "a span ends with its stream");
    drop(stream);
    let spans = recorder.until(|spans| spans.len() == 2).await;
    for span in &spans {
        assert_eq!(attribute(span, "rpc.response.status_code").as_deref(), Some("CANCELLED"));
    }
}
