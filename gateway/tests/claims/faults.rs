//! What happens when something goes wrong.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_runtime::{
    Tasks,
    status::{reason, unavailable, with_reason},
};

use crate::{
    doubles::inference::{Call, refusal},
    front::{Answer, Front, again, ask, quiet, within},
};

/// An answer whose first words have been read.
async fn in_the_middle(front: &Front) -> (Answer, Call) {
    let asking = front.asking(ask("tell me"));
    let mut call = front.inference.call().await;
    call.start().await;
    let mut answer = asking.await.unwrap().unwrap();
    call.tokens(&[front.tokenizer.id("once upon a time there was")]).await;
    answer.text(10).await;
    (answer, call)
}

fn assert_unavailable(status: &Status, service: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.metadata.get("service").map(String::as_str), Some(service), "{info:?}");
    assert!(status.message().contains(service), "{}", status.message());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_under_an_answer_is_unavailable_at_once_and_named() {
    for service in ["tokenizer", "inference", "safety"] {
        let front = Front::new().await;
        let (answer, call) = in_the_middle(&front).await;
        let before = Instant::now();
        match service {
            "tokenizer" => front.processes.tokenizer.kill(),
            "inference" => front.processes.inference.kill(),
            _ => front.processes.safety.kill(),
        }
        let (_, status) = answer.failure().await;
        assert_unavailable(&status, service);
        assert!(before.elapsed() < Duration::from_millis(100), "after {:?}", before.elapsed());
        call.dropped().await;
    }
}

/// The calls of an answer are open before its first token, and may be lost before they are of use.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_while_the_prompt_is_computed_costs_nothing() {
    for stream in ["tokenizer.v1.TokenizerService/DecodeStream", "safety.v1.SafetyService/ScreenStream"] {
        let front = Front::new().await;
        let (tokenizer, safety) = (&front.processes.tokenizer, &front.processes.safety);
        let service = if stream.starts_with("tokenizer") { tokenizer } else { safety };
        let open = format!("weft_rpc_server_calls_in_flight{{method=\"weft.{stream}\"}} 1\n");
        let asking = front.asking(ask("tell me"));
        let mut call = front.inference.call().await;
        quiet().await;
        assert!(service.context.metrics.encode().contains(&open), "{stream} is open");
        service.connector.cut();
        quiet().await;
        assert!(!service.context.metrics.encode().contains(&open), "{stream} is lost");
        call.start().await;
        call.tokens(&[front.tokenizer.id("once upon a time")]).await;
        call.end().await;
        assert_eq!(asking.await.unwrap().unwrap().whole().await.text, "once upon a time");
    }
}

/// So may the filter's, while the tokenizer still holds back all there is of the answer.
#[tokio::test(start_paused = true)]
async fn a_filter_that_was_asked_nothing_may_be_lost_under_an_answer() {
    let front = Front::new().await;
    let asking = front.asking(ask("tell me"));
    let mut call = front.inference.call().await;
    call.start().await;
    let answer = asking.await.unwrap().unwrap();
    call.tokens(&[front.tokenizer.id("x")]).await;
    let reading = Tasks::default().spawn("reading", answer.whole());
    quiet().await;
    front.processes.safety.connector.cut();
    quiet().await;
    call.tokens(&[front.tokenizer.id(" marks the spot")]).await;
    call.end().await;
    assert_eq!(reading.await.unwrap().text, "x marks the spot");
}

#[tokio::test(start_paused = true)]
async fn nothing_leaves_unscreened_when_the_filter_dies() {
    let front = Front::new().await;
    let (answer, mut call) = in_the_middle(&front).await;
    front.processes.safety.kill();
    call.tokens(&[front.tokenizer.id(" a BOMB")]).await;
    let (text, status) = answer.failure().await;
    assert!(text.is_empty(), "{text:?} was not screened");
    assert_unavailable(&status, "safety");
}

#[tokio::test(start_paused = true)]
async fn without_a_filter_nothing_is_answered_and_when_it_is_back_everything_is() {
    let front = Front::new().await;
    front.processes.safety.kill();
    assert_unavailable(&front.chat(ask("hello")).await.err().unwrap(), "safety");
    let _again = again("safety", &front.processes.safety, front.safety.services());
    // What was asked while it was away may have begun to generate; that is over.
    while front.inference.has_call().await {
        front.inference.call().await;
    }
    in_the_middle(&front).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_ends_the_generation() {
    let front = Front::new().await;
    let (answer, call) = in_the_middle(&front).await;
    drop(answer);
    call.dropped().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_before_the_answer_begins_ends_the_generation() {
    let front = Front::new().await;
    let asking = front.asking(ask("tell me"));
    let call = front.inference.call().await;
    asking.abort();
    call.dropped().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_an_answer_in_the_middle() {
    let front = Front::new().await;
    let begun = Instant::now();
    let request = within(Duration::from_secs(3), ask("tell me"));
    let play = async {
        let mut call = front.inference.call().await;
        call.start().await;
        call.tokens(&[front.tokenizer.id("once upon a time")]).await;
        call
    };
    let (answer, call) = tokio::join!(front.chat(request), play);
    let (_, status) = answer.unwrap().failure().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(begun.elapsed() <= Duration::from_secs(3));
    call.dropped().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_does_not_read_stops_the_generation_and_not_the_memory() {
    let front = Front::new().await;
    let asking = front.asking(ask("tell me"));
    let mut call = front.inference.call().await;
    call.start().await;
    let mut answer = asking.await.unwrap().unwrap();
    // Nine bytes a token, so that only what counts messages can stop it; nobody reads.
    let id = front.tokenizer.id("abcdefgh ");
    let mut taken = 0;
    while taken < 100_000 && call.takes(id).await {
        taken += 1;
    }
    assert!((1_000..50_000).contains(&taken), "{taken} tokens were taken");
    // It harms nobody else on the same connections,
    let (_other, _call) = in_the_middle(&front).await;
    assert!(!call.is_dropped());
    // and when the caller reads on, so does everybody.
    answer.text(9 * taken / 2).await;
    assert!(call.takes(id).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_nobody_is_made_again_before_the_first_message() {
    let front = Front::new().await;
    front.inference.refuse([unavailable("BUSY", "not now", None), unavailable("BUSY", "not now", None)]);
    in_the_middle(&front).await;
    let metrics = front.gateway.context.metrics.encode();
    assert!(metrics.contains("weft_gateway_retries_total{service=\"inference\"} 2"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_still_starting_speaks_for_itself_only() {
    let front = Front::new().await;
    front.inference.refuse([unavailable(reason::STARTING, "still starting", Some(Duration::from_secs(1)))]);
    in_the_middle(&front).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_made_again_too_often_nor_for_other_reasons_nor_against_advice() {
    let front = Front::new().await;
    let busy = || unavailable("BUSY", "not now", None);
    front.inference.refuse([busy(), busy(), busy()]);
    assert_unavailable(&front.chat(ask("hi")).await.err().unwrap(), "inference");

    let full = unavailable("QUEUE_FULL", "the queue is full", Some(Duration::from_secs(2)));
    front.inference.refuse([full]);
    let status = front.chat(ask("hi")).await.err().unwrap();
    assert_unavailable(&status, "inference");
    assert_eq!(status.get_details_error_info().unwrap().reason, "QUEUE_FULL");
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(2)));

    front.inference.refuse([Status::resource_exhausted("too much")]);
    assert_eq!(front.chat(ask("hi")).await.err().unwrap().code(), Code::ResourceExhausted);
    assert!(!front.inference.has_call().await);
}

#[tokio::test(start_paused = true)]
async fn retries_have_a_budget() {
    let front = Front::with("[retry]\nbudget_reserve = 1\nbudget_ratio = 0.0").await;
    let busy = || unavailable("BUSY", "not now", None);
    front.inference.refuse([busy(), busy(), busy(), busy()]);
    front.chat(ask("hi")).await.err().unwrap();
    front.chat(ask("hi")).await.err().unwrap();
    let metrics = front.gateway.context.metrics.encode();
    assert!(metrics.contains("weft_gateway_retries_total{service=\"inference\"} 1"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn what_a_service_says_of_its_own_fields_is_said_of_ours() {
    let front = Front::new().await;
    for (theirs, ours) in [
        ("prompt_token_ids", "messages"),
        ("stop.max_tokens", "options.stop.max_tokens"),
        ("sampling.temperature", "options.sampling.temperature"),
    ] {
        front.inference.refuse([refusal(theirs, "is 200; must be at most 100")]);
        let status = front.chat(ask("hi")).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!((violations.len(), violations[0].field.as_str()), (1, ours));
        assert!(status.message().contains(&format!("`{ours}` is 200")), "{}", status.message());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_inside_is_not_shown_outside() {
    let front = Front::new().await;
    let (answer, call) = in_the_middle(&front).await;
    call.fail(with_reason(Code::Internal, "INTERNAL", "tensor 7 of /srv/models/secret is broken")).await;
    let (_, status) = answer.failure().await;
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("tensor"), "{}", status.message());
}
