//! Where a request's time went, told in its trailers.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataMap;
use weft_proto::gateway::v1::ChatRequest;
use weft_runtime::{
    Tasks,
    telemetry::test::{Recorder, attribute},
};

use crate::front::{Caller, Front, ask, quiet};

const MS: Duration = Duration::from_millis(1);

/// Milliseconds by phase.
type Told = BTreeMap<String, f64>;

fn told(trailers: &MetadataMap) -> Told {
    let text = trailers.get("server-timing").expect("is told").to_str().unwrap();
    let entry = |entry: &str| {
        let (name, time) = entry.split_once(";dur=").unwrap();
        (name.to_owned(), time.parse().unwrap())
    };
    text.split(", ").map(entry).collect()
}

/// Reads an answer to its end: what was told, and what a watch beside it says.
async fn answered(
    mut client: weft_proto::gateway::v1::gateway_service_client::GatewayServiceClient<Caller>,
    request: ChatRequest,
) -> (Told, Duration) {
    let begun = Instant::now();
    let mut stream = client.chat(request).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    let trailers = stream.trailers().await.unwrap().unwrap();
    (told(&trailers), begun.elapsed())
}

/// Only these phases took time, and together they are all of it.
fn add_up((told, measured): (Told, Duration), expected: &[(&str, u32)]) {
    let total = told["total"];
    assert_eq!(Duration::from_secs_f64(total / 1e3), measured, "{told:?}");
    let phases = told.into_iter().filter(|(name, time)| name != "total" && *time > 0.0);
    let phases: BTreeMap<String, u32> = phases.map(|(name, time)| (name, time as u32)).collect();
    assert_eq!(phases, expected.iter().map(|(name, time)| ((*name).to_owned(), *time)).collect());
    assert_eq!(f64::from(phases.values().sum::<u32>()), total);
}

#[tokio::test(start_paused = true)]
async fn every_millisecond_is_charged_to_who_was_waited_for() {
    let front = Front::new().await;
    let asking = Tasks::default().spawn("asking", answered(front.client.clone(), ask("tell me")));
    let mut call = front.inference.call().await;
    sleep(50 * MS).await;
    call.start_after(10 * MS, 25 * MS).await;
    // The tokenizer and the filter hold the end of a text back: with one token alone, all of it.
    call.tokens(&[front.tokenizer.id("x")]).await;
    sleep(20 * MS).await;
    call.tokens(&[front.tokenizer.id("a long text ")]).await;
    sleep(40 * MS).await;
    call.end().await;
    let expected = [("network", 15), ("queue", 10), ("prefill", 25), ("hold", 20), ("decode", 40)];
    add_up(asking.await.unwrap(), &expected);
}

#[tokio::test(start_paused = true)]
async fn what_happens_beside_a_verdict_that_is_waited_for_costs_nothing() {
    let (recorder, _guard) = Recorder::install();
    let front = Front::new().await;
    front.safety.hold_verdicts(true);
    let asking = Tasks::default().spawn("asking", answered(front.client.clone(), ask("tell me")));
    let mut call = front.inference.call().await;
    sleep(30 * MS).await;
    call.start_after(10 * MS, 20 * MS).await;
    sleep(10 * MS).await;
    front.safety.hold_verdicts(false);
    sleep(20 * MS).await;
    call.end().await;
    add_up(asking.await.unwrap(), &[("screening", 40), ("decode", 20)]);
    quiet().await;

    let spans = recorder.spans();
    let served = spans.iter().find(|span| {
        span.name.ends_with("GatewayService/Chat") && attribute(span, "weft.latency.screening_ms").is_some()
    });
    assert_eq!(attribute(served.expect("a span"), "weft.latency.screening_ms").as_deref(), Some("40"));
    let metrics = front.gateway.context.metrics.encode();
    assert!(metrics.contains("weft_gateway_latency_seconds_sum{phase=\"screening\"} 0.04"), "{metrics}");
    assert!(metrics.contains("weft_gateway_latency_seconds_count{phase=\"hold\"} 1"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_how_long_it_took_too() {
    let front = Front::with("[admission]\nmax_running = 1\nmax_wait = \"70ms\"").await;
    let _asking = front.asking(ask("tell me"));
    let mut call = front.inference.call().await;
    call.start().await;
    let status = front.chat(ask("and me")).await.err().unwrap();
    let told = told(status.metadata());
    assert_eq!((told["admission"], told["total"]), (70.0, 70.0), "{told:?}");
}
