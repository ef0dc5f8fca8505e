//! Embeddings.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::gateway::v1::{EmbedRequest, EmbedResponse};

use crate::{
    doubles::{inference::refusal, safety::PLACEHOLDER},
    front::Front,
};

async fn embed(front: &Front, inputs: &[&str]) -> Result<EmbedResponse, Status> {
    let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
    let answer = front.client.clone().embed(EmbedRequest { model: String::new(), inputs }).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(start_paused = true)]
async fn each_input_has_its_vector_in_order() {
    let front = Front::new().await;
    let inputs: Vec<String> = (1..40).map(|words| "word ".repeat(words)).collect();
    let answer = embed(&front, &inputs.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let lengths: Vec<f32> = answer.embeddings.iter().map(|vector| vector.values[0]).collect();
    assert_eq!(lengths, (1_u8..40).map(f32::from).collect::<Vec<_>>());
    assert_eq!(answer.usage.unwrap().prompt_tokens, (1..40).sum::<u32>());
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_blocked_refuses_the_call_and_is_named() {
    let front = Front::new().await;
    let status = embed(&front, &["fine", "a BOMB", "fine"]).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["inputs"].as_str()), ("CONTENT_FILTER", "inputs[1]"));
    assert_eq!(info.metadata["categories"], "test.bomb");
}

#[tokio::test(start_paused = true)]
async fn an_input_is_redacted_before_it_is_embedded() {
    let front = Front::new().await;
    embed(&front, &["I am NAME", "and you"]).await.unwrap();
    let encoded = front.tokenizer.encoded();
    assert!(encoded.contains(&format!("I am {PLACEHOLDER}")), "{encoded:?}");
}

#[tokio::test(start_paused = true)]
async fn what_inference_says_is_passed_on() {
    let front = Front::new().await;
    front.inference.refuse_embed(Status::unimplemented("`Embed` is not served yet"));
    assert_eq!(embed(&front, &["a"]).await.unwrap_err().code(), Code::Unimplemented);
    front.inference.refuse_embed(refusal("inputs[0].token_ids", "has 9 ids; must have at most 8"));
    let status = embed(&front, &["a"]).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "inputs[0]");
}

#[tokio::test(start_paused = true)]
async fn bad_inputs_are_all_named() {
    let front = Front::new().await;
    assert_eq!(embed(&front, &[]).await.unwrap_err().code(), Code::InvalidArgument);
    let status = embed(&front, &["", "a", ""]).await.unwrap_err();
    let fields: Vec<_> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|wrong| wrong.field)
        .collect();
    assert_eq!(fields, ["inputs[0]", "inputs[2]"]);
}
