//! Three times as many requests as can be served, in virtual time, against an engine of a few places that takes the same
//! time for everybody.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::{sync::Semaphore, time::Instant};
use tonic::Status;
use tonic_types::StatusExt as _;
use weft_proto::{
    common::v1::{FinishReason, StopConditions},
    gateway::v1::{ChatRequest, GenerationOptions, chat_response::Event},
};
use weft_runtime::Tasks;

use crate::{
    doubles::inference::{Call, Inference},
    front::{Caller, Front, ask_with},
};

/// Sequences that the engine runs at once.
const PLACES: usize = 8;
const TOKENS: u32 = 10;
const PACE: Duration = Duration::from_millis(50);
const PREFILL: Duration = Duration::from_millis(100);
/// Requests a second, at most.
const CAPACITY: f64 = PLACES as f64 / 0.6;

/// Plays the engine.
fn engine(inference: &Inference, word: u32) {
    let (inference, places) = (inference.clone(), Arc::new(Semaphore::new(PLACES)));
    let serve = async move {
        loop {
            let (call, places) = (inference.call().await, Arc::clone(&places));
            Tasks::default().spawn("generation", generate(call, places, word));
        }
    };
    Tasks::default().spawn("engine", serve);
}

async fn generate(mut call: Call, places: Arc<Semaphore>, word: u32) {
    let arrived = Instant::now();
    let _place = places.acquire().await.unwrap();
    let queue = arrived.elapsed();
    tokio::time::sleep(PREFILL).await;
    call.start_after(queue, PREFILL).await;
    for _ in 0..TOKENS {
        if call.is_dropped() {
            return;
        }
        call.tokens(&[word]).await;
        tokio::time::sleep(PACE).await;
    }
    call.finish(FinishReason::Length, None).await;
}

fn request() -> ChatRequest {
    let stop = StopConditions { max_tokens: Some(TOKENS), ..StopConditions::default() };
    ask_with("go on", GenerationOptions { stop: Some(stop), ..GenerationOptions::default() })
}

/// Until the first text, or why there was none.
async fn first_text(
    mut client: weft_proto::gateway::v1::gateway_service_client::GatewayServiceClient<Caller>,
) -> Result<Duration, Status> {
    let begun = Instant::now();
    let mut stream = client.chat(request()).await?.into_inner();
    let mut first = None;
    while let Some(message) = stream.message().await? {
        if matches!(message.event, Some(Event::Delta(_))) {
            first.get_or_insert_with(|| begun.elapsed());
        }
    }
    Ok(first.expect("an answer has text"))
}

/// What came of load: when each request came, and what it got.
type Outcomes = Vec<(Duration, Result<Duration, Status>)>;

/// As many requests a second as `times` the capacity, evenly but for a jitter.
async fn load(front: &Front, times: f64, seconds: u64) -> Outcomes {
    let (begun, mut calls) = (Instant::now(), Vec::new());
    let count = (times * CAPACITY * seconds as f64) as u32;
    for index in 0..count {
        // Weyl's sequence scatters arrivals within their slots, always alike.
        let jitter = (f64::from(index) * 0.618_034).fract();
        let at = Duration::from_secs_f64((f64::from(index) + jitter) / (times * CAPACITY));
        tokio::time::sleep_until(begun + at).await;
        let call = Tasks::default().spawn("caller", first_text(front.client.clone()));
        calls.push(async move { (at, call.await.unwrap()) });
    }
    join_all(calls).await
}

fn quantile(outcomes: &[(Duration, Result<Duration, Status>)], share: f64) -> Duration {
    let mut times: Vec<_> = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).collect();
    times.sort();
    *times[((times.len() - 1) as f64 * share) as usize]
}

async fn front(config: &str) -> Front {
    let front = Front::with(&format!("[admission]\n{config}")).await;
    engine(&front.inference, front.tokenizer.id("word "));
    front
}

#[tokio::test(start_paused = true)]
async fn overload_costs_those_who_are_let_in_nothing_and_tells_the_others_why() {
    let front = front(&format!("max_running = {PLACES}")).await;
    let calm = load(&front, 0.5, 10).await;
    assert!(
        calm.iter().all(|(_, outcome)| outcome.is_ok()),
        "{:?}",
        calm.iter().find(|(_, outcome)| outcome.is_err())
    );
    let overload = load(&front, 3.0, 20).await;
    assert!(
        quantile(&overload, 0.99) <= 2 * quantile(&calm, 0.99),
        "{:?}, calm {:?}",
        quantile(&overload, 0.99),
        quantile(&calm, 0.99)
    );
    let served = overload.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    let goodput = served as f64 / 20.0 / CAPACITY;
    assert!(goodput >= 0.9, "{goodput} of the capacity");
    for status in overload.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.metadata["knob"].as_str()),
            ("OVERLOADED", "admission.max_running")
        );
        assert_eq!(info.metadata["value"], PLACES.to_string());
        let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
        let pushback: u64 = pushback.to_str().unwrap().parse().unwrap();
        assert!((1..2_000).contains(&pushback), "{pushback} ms");
    }
    let after = load(&front, 0.5, 5).await;
    let late = after.iter().filter(|(at, outcome)| outcome.is_err() && *at > Duration::from_secs(2));
    assert_eq!(late.count(), 0, "it recovers within two seconds");
}
