//! Whether the gateway should be sent work.

use tonic::Code;

use crate::front::{Front, again, ask};

/// Why the gateway is not ready, by condition.
fn failing(front: &Front) -> Vec<(&'static str, String)> {
    let conditions = front.gateway.context.health.conditions().into_iter();
    conditions.filter_map(|state| Some((state.name, state.reason?))).collect()
}

/// Waits until a condition fails with a reason in which this occurs.
async fn fails_with(front: &Front, name: &str, words: &str) {
    // The watchers look again and again; each look moves the paused clock.
    while !failing(front).iter().any(|(failing, reason)| *failing == name && reason.contains(words)) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_goes_away_is_named_and_when_it_is_back_the_gateway_is_ready_again() {
    let front = Front::new().await;
    front.processes.safety.kill();
    front.gateway.context.health.not_serving().await;
    let failing = failing(&front);
    assert_eq!(failing.len(), 1, "{failing:?}");
    assert_eq!(failing[0].0, "safety");
    let _again = again("safety", &front.processes.safety, front.safety.services());
    front.gateway.context.health.serving().await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_starts_first_waits_for_the_others() {
    let front = Front::starting("");
    front.processes.inference.kill();
    fails_with(&front, "inference", "cannot reach inference").await;
    let status = front.chat(ask("hi")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    let _again = again("inference", &front.processes.inference, front.inference.services());
    front.gateway.context.health.serving().await;
}

#[tokio::test(start_paused = true)]
async fn services_with_different_vocabularies_are_not_used_and_both_are_named() {
    let front = Front::starting("");
    front.tokenizer.set_fingerprint("aaaa");
    front.inference.set_fingerprint("bbbb");
    fails_with(&front, "vocabulary", "aaaa").await;
    fails_with(&front, "vocabulary", "bbbb").await;
    let status = front.chat(ask("hi")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("aaaa") && status.message().contains("bbbb"), "{}", status.message());
    front.inference.set_fingerprint("aaaa");
    front.gateway.context.health.serving().await;
}

#[tokio::test(start_paused = true)]
async fn a_default_policy_that_the_filter_does_not_have_is_named() {
    let front = Front::starting("[safety_filter]\ndefault_policy = \"house\"");
    fails_with(&front, "safety", "safety_filter.default_policy = \"house\"").await;
    front.safety.set_policies(&["default", "house"]);
    front.gateway.context.health.serving().await;
}
