//! Bad input and refused content: precise, and harmless to others.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{
    common::v1::{FinishReason, SamplingParams, StopConditions},
    gateway::v1::{ChatRequest, GenerationOptions},
};
use weft_tests::{
    Brain, Mesh,
    caller::{chat, greedy},
    golden,
};

use crate::soon;

async fn refusal(mesh: &Mesh, request: ChatRequest) -> Status {
    soon("a refusal", mesh.caller().answer(request)).await.expect_err("is refused")
}

fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations);
    violations.unwrap_or_default().into_iter().map(|violation| violation.field).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_with_a_request_is_said_at_once() {
    let mesh = Mesh::with(Brain::Endless).await;
    let options = GenerationOptions {
        sampling: Some(SamplingParams {
            temperature: Some(f32::NAN),
            top_p: Some(-0.5),
            repetition_penalty: Some(0.0),
            ..Default::default()
        }),
        stop: Some(StopConditions { max_tokens: Some(0), ..Default::default() }),
        stop_strings: vec![String::new()],
        ..Default::default()
    };
    let status = refusal(&mesh, chat("Hello?", options)).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let fields = fields(&status);
    for field in ["temperature", "top_p", "repetition_penalty", "max_tokens", "stop_strings"] {
        assert!(fields.iter().any(|named| named.contains(field)), "{field} is missing in {fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_answers_than_inference_allows_are_refused_by_name() {
    let mesh = Mesh::with(Brain::Endless).await;
    let status = refusal(&mesh, chat("Hello?", GenerationOptions { n: Some(1_000), ..greedy(4) })).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(fields(&status), ["options.n"], "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_is_not_loaded_is_named() {
    let mesh = Mesh::with(Brain::Endless).await;
    let options = GenerationOptions { adapter_id: Some("mine".to_owned()), ..greedy(4) };
    let status = refusal(&mesh, chat("Hello?", options)).await;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert!(
        status.message().contains("options.adapter_id") && status.message().contains("mine"),
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_empty_chats_and_huge_prompts_are_refused_and_others_go_on() {
    let mesh = Mesh::with(Brain::Saying(golden::greedy()[0].greedy_ids.clone())).await;
    let unknown = ChatRequest { model: "gpt-9".to_owned(), ..chat("Hello?", greedy(4)) };
    let status = refusal(&mesh, unknown).await;
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("gpt-9") && status.message().contains("smollm2"), "{status:?}");

    let status = refusal(&mesh, ChatRequest::default()).await;
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["messages".to_owned()]));

    let status = refusal(&mesh, chat(&"word ".repeat(2_000_000), greedy(4))).await;
    assert!(
        matches!(status.code(), Code::ResourceExhausted | Code::InvalidArgument | Code::OutOfRange),
        "{status:?}"
    );

    // Fits every message, but not the context.
    let status = refusal(&mesh, chat(&"word ".repeat(20_000), greedy(4))).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    soon("an answer", mesh.caller().ask("Hello?", 4)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_prompt_is_an_answer_without_text() {
    let mesh = Mesh::with(Brain::Endless).await;
    let answer = soon("an answer", mesh.caller().ask("Say WEFT-SAFETY-TEST-PHRASE", 4)).await.unwrap();
    assert_eq!(answer.reason(), FinishReason::ContentFilter);
    assert_eq!(answer.finished.blocked_prompt, Some(true));
    assert_eq!(answer.text, "");
    assert!(answer.finished.safety_findings.contains_key("denied.test_phrase"), "{answer:?}");
    soon("freeing", mesh.engine().idle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_completion_ends_before_what_was_refused() {
    // "My phrase: WEFT-SAFETY-TEST-PHRASE", in the ids of the real tokenizer.
    let mesh = Mesh::with(Brain::Saying(encode("My phrase: WEFT-SAFETY-TEST-PHRASE and more").await)).await;
    let answer = soon("an answer", mesh.caller().ask("Say it", 64)).await.unwrap();
    assert_eq!(answer.reason(), FinishReason::ContentFilter);
    assert_eq!(answer.finished.blocked_prompt, Some(false));
    assert_eq!(answer.text, "My phrase: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn personal_data_in_a_completion_is_redacted() {
    let mesh = Mesh::with(Brain::Saying(encode("Write to jane.doe@weft.example today.").await)).await;
    let answer = soon("an answer", mesh.caller().ask("Whom?", 64)).await.unwrap();
    assert_eq!(answer.text, "Write to [REDACTED:pii.email] today.");
    assert_eq!(answer.finished.safety_findings.get("pii.email"), Some(&1));
    assert_eq!(answer.reason(), FinishReason::Stop);
}

async fn encode(text: &str) -> Vec<u32> {
    use weft_proto::tokenizer::v1::{EncodeRequest, tokenizer_service_client::TokenizerServiceClient};
    let mesh = Mesh::with(Brain::Endless).await;
    let channel = weft_tests::caller::channel(mesh.connector(weft_tests::Room::Tokenizer).clone());
    let request = EncodeRequest { text: text.to_owned(), ..Default::default() };
    TokenizerServiceClient::new(channel).encode(request).await.expect("is encoded").into_inner().token_ids
}
