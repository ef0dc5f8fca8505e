//! Fact 7, and the whole sequence.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use weft_runtime::{
    RuntimeConfig, Services,
    drain::{DrainConfig, Phase},
    status,
};

use crate::support::{ECHO, STALL, Served, encode, scripts, text};

const ANNOUNCE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(10);

fn config() -> RuntimeConfig {
    RuntimeConfig { drain: DrainConfig { announce: ANNOUNCE, limit: LIMIT }, ..RuntimeConfig::default() }
}

/// Fact 7: an open watch is an open stream, and a graceful shutdown waits for it, for ever.
#[tokio::test(start_paused = true)]
async fn an_open_watch_of_health_does_not_hold_up_a_drain() {
    let mut served = Served::with(config()).await;
    let mut health = HealthClient::new(served.outgoing());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut next = async || watch.message().await.unwrap().map(|change| change.status());
    assert_eq!(next().await, Some(ServingStatus::Serving));

    let begun = Instant::now();
    served.stop();
    assert_eq!(next().await, Some(ServingStatus::NotServing), "announced");
    assert_eq!(next().await, None, "ended");
    served.running.await.unwrap().unwrap();
    assert_eq!(begun.elapsed().as_secs(), ANNOUNCE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_go_on_drains_and_ends_with_the_first_reason() {
    let served = Served::with(config()).await;
    let begun = Instant::now();
    served.context.failure.report("its thread is gone");
    served.context.failure.report("and more");
    assert_eq!(served.running.await.unwrap().unwrap_err().to_string(), "its thread is gone");
    assert_eq!(begun.elapsed().as_secs(), ANNOUNCE.as_secs(), "nobody is cut off");
}

/// Fact 7: tonic's graceful shutdown has no limit.
#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_end_is_cancelled_with_unavailable_and_named() {
    let mut served = Served::with(config()).await;
    let mut stream = served.client().decode_stream(scripts(&[STALL])).await.unwrap().into_inner();
    text(&mut stream).await;
    let begun = Instant::now();
    served.stop();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status::reason_of(&status).as_deref(), Some("STOPPING"));
    let error = served.running.await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("1 calls were cancelled after the drain limit of 10s"), "{error}");
    assert!(error.contains("DecodeStream"), "{error}");
    assert_eq!(begun.elapsed().as_secs(), (ANNOUNCE + LIMIT).as_secs());
}

#[tokio::test(start_paused = true)]
async fn calls_are_taken_while_announcing_and_streams_finish_while_draining() {
    let mut served = Served::with(config()).await;
    let mut client = served.client();
    let (requests, stream) = tokio::sync::mpsc::unbounded_channel();
    let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(stream);
    let mut answers = client.decode_stream(stream).await.unwrap().into_inner();
    let echo =
        || weft_proto::tokenizer::v1::DecodeStreamRequest { token_ids: vec![ECHO], ..Default::default() };
    requests.send(echo()).unwrap();
    text(&mut answers).await;

    served.stop();
    served.context.drain.reached(Phase::Announcing).await;
    assert!(!served.context.health.is_serving());
    client.encode(encode("a")).await.unwrap();

    served.context.drain.reached(Phase::Draining).await;
    requests.send(echo()).unwrap();
    assert_eq!(text(&mut answers).await, "text");
    let late = served.client().encode(encode("a")).await.unwrap_err();
    assert_eq!(late.code(), Code::Unavailable, "the listener is closed");
    drop(requests);
    assert!(answers.message().await.unwrap().is_none());
    served.running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_still_starting_stops_at_once() {
    let begun = Instant::now();
    let mut served = Served::starting(config(), std::future::pending());
    served.stop();
    served.running.await.unwrap().unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_ends_the_process_with_its_error() {
    let served = Served::starting(config(), async { Err("no such model".into()) });
    assert_eq!(served.running.await.unwrap().unwrap_err().to_string(), "no such model");
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_watch_the_drain_are_aborted() {
    let mut served = Served::starting(config(), async { Ok(Services::new()) });
    let stuck = served.context.tasks.spawn("stuck", std::future::pending::<()>());
    served.context.health.serving().await;
    served.stop();
    served.running.await.unwrap().unwrap();
    assert!(stuck.await.unwrap_err().is_cancelled());
}
