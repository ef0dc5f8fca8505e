//! How much is let in.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{common::v1::StopConditions, gateway::v1::GenerationOptions};

use crate::front::{Front, ask, ask_with, quiet};

#[tokio::test(start_paused = true)]
async fn a_place_is_held_until_the_last_token_and_a_refusal_names_the_knob() {
    let front = Front::with("[admission]\nmax_in_flight = 1\nretry_after = \"3s\"").await;
    let asking = front.asking(ask("tell me"));
    let mut call = front.inference.call().await;
    call.start().await;
    // The headers are out; the answer is not.
    let answer = asking.await.unwrap().unwrap();

    let status = front.chat(ask("and me")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "GATEWAY_FULL");
    assert_eq!(
        (info.metadata["knob"].as_str(), info.metadata["value"].as_str()),
        ("admission.max_in_flight", "1")
    );
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "3000");
    let metrics = front.gateway.context.metrics.encode();
    assert!(metrics.contains("weft_gateway_in_flight 1\n"), "{metrics}");
    assert!(metrics.contains("weft_gateway_admission_refusals_total{cause=\"in_flight\"} 1\n"), "{metrics}");

    call.end().await;
    answer.whole().await;
    quiet().await;
    let asking = front.asking(ask("now me"));
    front.inference.call().await.start().await;
    asking.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_makes_room() {
    let front = Front::with("[admission]\nmax_in_flight = 1").await;
    for _ in 0..3 {
        let asking = front.asking(ask("tell me"));
        let mut call = front.inference.call().await;
        call.start().await;
        drop(asking.await.unwrap().unwrap());
        call.dropped().await;
    }
    quiet().await;
    let metrics = front.gateway.context.metrics.encode();
    assert!(metrics.contains("weft_gateway_in_flight 0\n"), "{metrics}");
    assert!(metrics.contains("weft_gateway_upstream_in_flight{service=\"inference\"} 0\n"), "{metrics}");
}

/// The knob that a refusal names.
fn knob(refusal: &Status) -> String {
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    refusal.get_details_error_info().unwrap().metadata["knob"].clone()
}

#[tokio::test(start_paused = true)]
async fn background_work_is_not_let_in_where_others_are() {
    let config = "[admission]\nmax_running = 2\nbackground_share = 0.5\nmax_wait = \"0s\"";
    let front = Front::with(config).await;
    let of = |priority| {
        ask_with("me", GenerationOptions { priority: Some(priority), ..GenerationOptions::default() })
    };
    let asking = front.asking(of(0));
    let mut call = front.inference.call().await;
    call.start().await;
    let _running = asking.await.unwrap().unwrap();
    assert_eq!(knob(&front.chat(of(-1)).await.err().unwrap()), "admission.max_running");
    let asking = front.asking(of(0));
    front.inference.call().await.start().await;
    asking.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn long_answers_are_not_let_in_where_short_ones_are() {
    let tokens = "max_tokens_in_flight = 100\nmin_tokens_in_flight = 100";
    let front = Front::with(&format!("[admission]\n{tokens}\nmax_wait = \"0s\"")).await;
    let of = |max_tokens| {
        let stop = StopConditions { max_tokens: Some(max_tokens), ..StopConditions::default() };
        ask_with("me", GenerationOptions { stop: Some(stop), ..GenerationOptions::default() })
    };
    let asking = front.asking(of(60));
    let mut call = front.inference.call().await;
    call.start().await;
    let _running = asking.await.unwrap().unwrap();
    assert_eq!(knob(&front.chat(of(60)).await.err().unwrap()), "admission.max_tokens_in_flight");
    let asking = front.asking(of(10));
    front.inference.call().await.start().await;
    asking.await.unwrap().unwrap();
}
