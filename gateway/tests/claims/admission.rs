//! How much is let in.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;

use crate::front::{Front, ask, quiet};

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
