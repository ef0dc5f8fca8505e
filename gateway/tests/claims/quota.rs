//! What is paid, and by whom: the beginnings of answers, and what has no tokens. (`tests/mesh` has the whole of it.)

use std::time::Duration;

use http::{Request, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{
    common::v1::StopConditions,
    gateway::v1::{ChatRequest, EmbedRequest, GenerationOptions},
};

use crate::{
    doubles::inference::refusal,
    exchange::exchange,
    front::{Front, ask_with, quiet, within},
};

/// The gateway with these limits; callers are the tenant without a name.
async fn front(limits: &str) -> (Front, TempDir) {
    front_with(limits, "").await
}

/// The same, with more in its config.
async fn front_with(limits: &str, more: &str) -> (Front, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quota.toml");
    std::fs::write(&file, limits).unwrap();
    let config = format!("[quota]\nwindow = \"1day\"\nfile = {file:?}\n[retry]\nmax_attempts = 1\n{more}");
    (Front::with(&config).await, folder)
}

/// A prompt of three tokens.
fn question(max_tokens: u32) -> ChatRequest {
    let stop = StopConditions { max_tokens: Some(max_tokens), ..StopConditions::default() };
    ask_with("how are you", GenerationOptions { stop: Some(stop), ..GenerationOptions::default() })
}

/// What is used of a limit of 80 tokens, while nothing is reserved.
async fn used(front: &Front) -> u64 {
    quiet().await;
    let status = front.chat(question(99)).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let told = status.get_details_error_info().unwrap().metadata;
    assert_eq!(told["reserved"], "0");
    told["used"].parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_before_the_answer_begins_pays_for_the_prompt() {
    let (front, _folder) = front("[default]\ntokens = 80").await;
    let asking = front.asking(question(50));
    let call = front.inference.call().await;
    asking.abort();
    assert_eq!(used(&front).await, 3);
    drop(call);

    // To run out of time is to leave.
    let (answer, _call) =
        tokio::join!(front.chat(within(Duration::from_secs(1), question(50))), front.inference.call());
    assert_eq!(answer.err().unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(used(&front).await, 6);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_begin_costs_nothing() {
    let (front, _folder) = front("[default]\ntokens = 80").await;
    front.inference.refuse([refusal("prompt_token_ids", "is too long"), Status::internal("on purpose")]);
    for _ in 0..2 {
        front.chat(question(50)).await.err().unwrap();
        assert_eq!(used(&front).await, 0);
    }
    front.inference.refuse_embed(Status::internal("on purpose"));
    let embed = EmbedRequest { model: String::new(), inputs: vec!["how are you".to_owned()] };
    front.client.clone().embed(embed).await.unwrap_err();
    assert_eq!(used(&front).await, 0);

    // The generation waits for a verdict, which will not come.
    front.safety.hold_verdicts(true);
    let asking = front.asking(question(50));
    let _call = front.inference.call().await;
    front.processes.safety.kill();
    assert_eq!(asking.await.unwrap().err().unwrap().code(), Code::Unavailable);
    front.safety.hold_verdicts(false);
    assert_eq!(used(&front).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_room_or_nobody_is_none() {
    let (front, _folder) =
        front_with("[default]\nrequests = 2", "[admission]\nmax_running = 1\nmax_wait = \"0s\"").await;
    let running = front.asking(question(50));
    let mut call = front.inference.call().await;
    call.start().await;
    let answer = running.await.unwrap().unwrap();
    for _ in 0..3 {
        let status = front.chat(question(50)).await.err().unwrap();
        assert_eq!(status.get_details_error_info().unwrap().reason, "OVERLOADED", "{status:?}");
    }
    call.end().await;
    answer.whole().await;
    front.inference.refuse([Status::unavailable("on purpose")]);
    assert_eq!(front.chat(question(50)).await.err().unwrap().code(), Code::Unavailable);
    front.inference.refuse_embed(Status::unavailable("on purpose"));
    let embed = EmbedRequest { model: String::new(), inputs: vec!["how are you".to_owned()] };
    assert_eq!(front.client.clone().embed(embed).await.unwrap_err().code(), Code::Unavailable);

    // One was answered; this is the second, and there is no third.
    let asking = front.asking(question(50));
    front.inference.call().await.start().await;
    asking.await.unwrap().unwrap();
    let status = front.chat(question(50)).await.err().unwrap();
    assert_eq!(status.get_details_error_info().unwrap().reason, "QUOTA_REQUESTS", "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_redacted_is_paid_once() {
    let (front, _folder) = front("[default]\ntokens = 80").await;
    front.safety.hold_verdicts(true);
    let mut request = question(50);
    request.messages[0].content = "my NAME is".to_owned();
    let asking = front.asking(request);
    let _unseen = front.inference.call().await;
    front.safety.hold_verdicts(false);
    let mut call = front.inference.call().await;
    call.start().await;
    call.end().await;
    let usage = asking.await.unwrap().unwrap().whole().await.finished.usage.unwrap();
    assert_eq!(used(&front).await, u64::from(usage.prompt_tokens + usage.completion_tokens));
}

#[tokio::test(start_paused = true)]
async fn moderation_is_a_request_of_its_policy() {
    let (front, _folder) = front("[default]\nrequests = 2").await;
    let moderate = async |policy: &str| {
        let body = json!({ "model": policy, "input": "how are you" });
        exchange(&front, Request::post("/v1/moderations"), &body).await
    };
    for _ in 0..2 {
        assert_eq!(moderate("default").await.0, StatusCode::OK);
    }
    let (status, told) = moderate("default").await;
    assert_eq!((status, &told["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("quota_requests")));
    assert_eq!(moderate("strict").await.0, StatusCode::OK);
    // A name that the filter does not have opens no account.
    assert_eq!(moderate("made up").await.0, StatusCode::NOT_FOUND);
}
