//! The Open Inference Protocol.

use futures::stream;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;
use weft_proto::kserve::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse, ModelReadyRequest,
    ModelStreamInferResponse, ServerReadyRequest, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor,
};
use weft_runtime::status::violation;

use crate::{
    doubles::inference::{Call, MODEL},
    front::{Front, quiet},
};

fn ask(text: &str) -> ModelInferRequest {
    let contents =
        InferTensorContents { bytes_contents: vec![text.into()], ..InferTensorContents::default() };
    let input = InferInputTensor {
        name: "text_input".to_owned(),
        datatype: "BYTES".to_owned(),
        shape: vec![1],
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    ModelInferRequest { id: text.to_owned(), inputs: vec![input], ..ModelInferRequest::default() }
}

fn ask_with(text: &str, name: &str, value: ParameterChoice) -> ModelInferRequest {
    let parameter = InferParameter { parameter_choice: Some(value) };
    ModelInferRequest { parameters: [(name.to_owned(), parameter)].into(), ..ask(text) }
}

/// Plays a generation of one word.
async fn say(front: &Front, mut call: Call, word: &str) {
    call.start().await;
    call.tokens(&[front.tokenizer.id(word)]).await;
    call.end().await;
}

fn text(response: &ModelInferResponse) -> String {
    let contents = response.outputs[0].contents.as_ref().unwrap();
    String::from_utf8(contents.bytes_contents[0].clone()).unwrap()
}

fn said(response: &ModelInferResponse, name: &str) -> ParameterChoice {
    response.parameters[name].parameter_choice.clone().unwrap()
}

/// Opens a stream of these requests.
async fn open(
    front: &Front,
    requests: Vec<ModelInferRequest>,
    as_status: bool,
) -> Streaming<ModelStreamInferResponse> {
    let mut request = Request::new(stream::iter(requests));
    if as_status {
        request.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    }
    front.kserve().model_stream_infer(request).await.unwrap().into_inner()
}

async fn answer(answers: &mut Streaming<ModelStreamInferResponse>) -> ModelInferResponse {
    let message = answers.message().await.unwrap().unwrap();
    assert_eq!(message.error_message, "");
    message.infer_response.unwrap()
}

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    status.get_details_bad_request().unwrap().field_violations.into_iter().map(|wrong| wrong.field).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_answers_one_request_after_the_other() {
    let front = Front::new().await;
    let mut answers = open(&front, vec![ask("first"), ask("second")], false).await;
    for (id, word) in [("first", "one"), ("second", "two")] {
        let call = front.inference.call().await;
        quiet().await;
        assert!(!front.inference.has_call().await, "two requests of one stream are in flight");
        let (piece, ()) = tokio::join!(answer(&mut answers), say(&front, call, word));
        assert_eq!((piece.id.as_str(), text(&piece).as_str()), (id, word));
        assert_eq!(said(&piece, "triton_final_response"), ParameterChoice::BoolParam(false));
        let last = answer(&mut answers).await;
        assert_eq!((last.id.as_str(), text(&last).as_str(), last.model_name.as_str()), (id, "", MODEL));
        assert_eq!(said(&last, "triton_final_response"), ParameterChoice::BoolParam(true));
        assert_eq!(said(&last, "finish_reason"), ParameterChoice::StringParam("stop".to_owned()));
        assert_eq!(said(&last, "completion_tokens"), ParameterChoice::Int64Param(2));
        assert_eq!(said(&last, "seed"), ParameterChoice::Uint64Param(42));
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_drops_its_generation() {
    let front = Front::new().await;
    let answers = open(&front, vec![ask("first"), ask("second")], false).await;
    let call = front.inference.call().await;
    drop(answers);
    call.dropped().await;
    quiet().await;
    assert!(!front.inference.has_call().await, "a request of a dropped stream was begun");
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_after_a_request_that_is_refused() {
    let front = Front::new().await;
    let bad = ask_with("bad", "top_p", ParameterChoice::DoubleParam(0.0));
    let mut answers = open(&front, vec![bad, ask("good")], false).await;
    let refused = answers.message().await.unwrap().unwrap();
    let rule = "INVALID_ARGUMENT: `parameters[\"top_p\"]` is 0; must be above 0 and at most 1";
    assert_eq!(refused.error_message, rule);
    assert_eq!(refused.infer_response.unwrap().id, "bad");
    let call = front.inference.call().await;
    let (piece, ()) = tokio::join!(answer(&mut answers), say(&front, call, "fine"));
    assert_eq!(text(&piece), "fine");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_for_it_gets_an_error_as_the_streams_status() {
    let front = Front::new().await;
    let bad = ask_with("bad", "top_p", ParameterChoice::DoubleParam(0.0));
    let mut answers = open(&front, vec![bad, ask("good")], true).await;
    assert_eq!(fields(&answers.message().await.unwrap_err()), ["parameters[\"top_p\"]"]);
    quiet().await;
    assert!(!front.inference.has_call().await);
}

#[tokio::test(start_paused = true)]
async fn what_inference_refuses_has_the_names_of_the_protocol() {
    let front = Front::new().await;
    for (theirs, ours) in [
        ("sampling.logit_bias[5]", "parameters[\"logit_bias[5]\"]"),
        ("stop.max_tokens", "parameters[\"max_tokens\"]"),
        ("prompt_token_ids", "inputs[\"text_input\"]"),
    ] {
        front.inference.refuse([violation(theirs, "is wrong")]);
        assert_eq!(fields(&front.kserve().model_infer(ask("hi")).await.unwrap_err()), [ours]);
    }
}

#[tokio::test(start_paused = true)]
async fn all_that_is_wrong_is_named_at_once() {
    let front = Front::new().await;
    let mut request = ask_with("hi", "temperature", ParameterChoice::DoubleParam(-1.0));
    request.model_version = "2".to_owned();
    request.parameters.insert("max_tokens".to_owned(), InferParameter { parameter_choice: None });
    let tensor = &mut request.inputs[0];
    (tensor.datatype, tensor.shape) = ("FP32".to_owned(), vec![2]);
    let status = front.kserve().model_infer(request).await.unwrap_err();
    let expected = [
        "model_version",
        "parameters[\"max_tokens\"]",
        "inputs[0].datatype",
        "inputs[0].shape",
        "parameters[\"temperature\"]",
    ];
    assert_eq!(fields(&status), expected);
    assert!(status.message().contains("is without a value; must be a whole number from 0 to 4294967295"));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_whose_services_are_gone_is_not_ready() {
    let front = Front::new().await;
    let ready = async || {
        let mut caller = front.kserve();
        let server = caller.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready;
        let asked = ModelReadyRequest { name: MODEL.to_owned(), version: String::new() };
        let model = caller.model_ready(asked).await.unwrap().into_inner().ready;
        (server, model)
    };
    assert_eq!(ready().await, (true, true));
    front.processes.safety.kill();
    front.gateway.context.health.not_serving().await;
    assert_eq!(ready().await, (false, false));
}
