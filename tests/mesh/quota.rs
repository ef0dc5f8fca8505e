//! How much a tenant may use.

use std::fs;

use futures::future::join_all;
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{
    common::v1::FinishReason,
    gateway::v1::{ChatRequest, EmbedRequest, chat_response::Event},
};
use weft_tests::{
    Brain, Mesh, Room,
    caller::{chat, greedy},
    mesh::Plan,
};

use crate::soon;

/// A mesh with these limits; callers show nothing, and so are the tenant without a name. Time is no matter here.
async fn mesh(limits: &str) -> (Mesh, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("quota.toml");
    fs::write(&file, limits).expect("is written");
    let gateway = format!("[quota]\nwindow = \"1day\"\nfile = {file:?}\n");
    let plan = Plan { brain: Brain::Endless, inference: String::new(), gateway, runtime: Default::default() };
    (Mesh::start(plan).await, folder)
}

fn endless(max_tokens: Option<u32>) -> ChatRequest {
    let mut options = greedy(1);
    let stop = options.stop.get_or_insert_default();
    (stop.max_tokens, stop.ignore_eos) = (max_tokens, true);
    chat("Go on.", options)
}

/// What a refused request was told: limit, used, reserved.
fn told(status: &Status) -> (u64, u64, u64) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let info = status.get_details_error_info().expect("has an ErrorInfo");
    let number = |key: &str| info.metadata[key].parse().expect("is a number");
    (number("limit"), number("used"), number("reserved"))
}

/// Resolves when nothing is reserved any more: what is used then.
async fn settled(mesh: &Mesh) -> u64 {
    let impossible = async || mesh.caller().answer(endless(Some(4_000))).await;
    soon("settling", async {
        loop {
            let (_, used, reserved) = told(&impossible().await.expect_err("is more than the limit"));
            if reserved == 0 {
                return used;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_once_use_no_token_more_than_the_limit() {
    let (free, _folder) = mesh("[default]").await;
    let prompt =
        soon("an answer", free.caller().answer(endless(Some(1)))).await.unwrap().started.prompt_tokens;
    // Sixteen answers of 60 tokens, and a prompt with an answer of 25.
    let limit = u64::from(16 * (prompt + 60) + prompt + 25);
    let (mesh, _folder) = mesh(&format!("[default]\ntokens = {limit}")).await;
    let mut sum = 0;
    let mut refused = 0;
    // As long as there is room for one more, some of these get it.
    loop {
        let answers = join_all((0..24).map(async |_| mesh.caller().answer(endless(Some(60))).await));
        let (good, bad): (Vec<_>, Vec<_>) =
            soon("answers", answers).await.into_iter().partition(Result::is_ok);
        for answer in good.iter().flatten() {
            let usage = answer.finished.usage.unwrap();
            assert_eq!((answer.reason(), usage.completion_tokens), (FinishReason::Length, 60));
            sum += u64::from(usage.prompt_tokens + usage.completion_tokens);
        }
        for status in bad.into_iter().map(Result::unwrap_err) {
            let (said, used, reserved) = told(&status);
            assert!(said == limit && used + reserved <= limit, "{used} + {reserved}");
            refused += 1;
        }
        if good.is_empty() {
            break;
        }
    }
    assert!(refused > 0, "nobody was refused");
    assert_eq!(sum, u64::from(16 * (prompt + 60)));
    assert_eq!(settled(&mesh).await, sum, "what callers were told is what is used");
    // Whoever does not say how much it needs gets exactly the rest.
    let last = soon("the rest", mesh.caller().answer(endless(None))).await.unwrap();
    let usage = last.finished.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (prompt, 25));
    assert_eq!(last.reason(), FinishReason::Length);
    assert!(last.finished.quota_reached);
    assert_eq!(settled(&mesh).await, limit);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_leaves_comes_back() {
    let (mesh, _folder) = mesh("[default]\ntokens = 1000\nstreams = 2").await;
    // The model takes a few steps for each and no more, so that the callers leave in the midst of their answers.
    let gate = mesh.hands().controls().gate;
    gate.close();
    for round in 1..=3 {
        let before = settled(&mesh).await;
        // Steps that an earlier caller did not wait for are there for the next.
        let most = 8 * round;
        gate.admit(8);
        let begun = async {
            let mut stream = mesh.caller().stream(endless(Some(600))).await.unwrap();
            let prompt = match stream.message().await.unwrap().unwrap().event {
                Some(Event::Started(started)) => u64::from(started.prompt_tokens),
                other => panic!("an answer begins with {other:?}"),
            };
            (stream, prompt)
        };
        let (stream, prompt) = soon("the beginning", begun).await;
        drop(stream);
        let used = settled(&mesh).await - before;
        assert!(
            (prompt..=prompt + most).contains(&used),
            "{used} tokens for a prompt of {prompt}, {most} steps"
        );
    }
    gate.open();
    let page = mesh.context(Room::Gateway).metrics.encode();
    assert!(page.contains(r#"weft_gateway_quota_refusals_total{tenant="other",limit="tokens"}"#), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_generation_gives_back_what_it_did_not_use() {
    let (mesh, _folder) = mesh("[default]\ntokens = 1000").await;
    mesh.hands().controls().fail(1);
    let status = soon("the failure", mesh.caller().answer(endless(Some(500)))).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(settled(&mesh).await < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_paid_by_the_token() {
    let (mesh, _folder) = mesh("[default]\ntokens = 20").await;
    let embed = async |text: &str| {
        let request = EmbedRequest { model: String::new(), inputs: vec![text.to_owned()] };
        soon("vectors", mesh.caller().client.embed(request)).await
    };
    let tokens = embed("Hello there").await.unwrap().into_inner().usage.unwrap().prompt_tokens;
    let status = embed(&"word ".repeat(40)).await.unwrap_err();
    assert_eq!(told(&status), (20, tokens.into(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_refused_costs_its_tokens_and_no_more() {
    let (mesh, _folder) = mesh("[default]\ntokens = 1000").await;
    let answer = soon("an answer", mesh.caller().ask("Say WEFT-SAFETY-TEST-PHRASE", 500)).await.unwrap();
    assert_eq!(answer.reason(), FinishReason::ContentFilter);
    assert_eq!(settled(&mesh).await, u64::from(answer.finished.usage.unwrap().prompt_tokens));
}
