//! What is refused, and how precisely.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{
    common::v1::{
        ChatMessage, Choice, Constraint, Role, SamplingParams, StopConditions, Tool, ToolCall,
        constraint::Form,
    },
    gateway::v1::{
        ChatRequest, CompleteRequest, GenerationOptions, ToolChoice, tool_choice::Form as ToolForm,
    },
};
use weft_runtime::status::violation;

use crate::front::{Front, ask, ask_with};

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    status.get_details_bad_request().unwrap().field_violations.into_iter().map(|wrong| wrong.field).collect()
}

async fn refused(front: &Front, request: ChatRequest) -> Status {
    front.chat(request).await.err().expect("a refusal")
}

#[tokio::test(start_paused = true)]
async fn all_that_is_wrong_with_messages_and_sampling_is_named_at_once() {
    let front = Front::new().await;
    let sampling = SamplingParams {
        temperature: Some(f32::NAN),
        top_p: Some(0.0),
        min_p: Some(-0.1),
        repetition_penalty: Some(0.0),
        frequency_penalty: Some(2.5),
        presence_penalty: Some(f32::NEG_INFINITY),
        logit_bias: [(3, 101.0)].into(),
        ..SamplingParams::default()
    };
    let options = GenerationOptions { sampling: Some(sampling), ..GenerationOptions::default() };
    let mut request = ask_with("", options);
    request.messages.push(ChatMessage {
        role: 17,
        content: "x".to_owned(),
        tool_calls: vec![ToolCall::default()],
        tool_call_id: Some("1".to_owned()),
        ..ChatMessage::default()
    });
    let status = refused(&front, request).await;
    let expected = [
        "messages[1].role",
        "messages[0].content",
        "messages[1].tool_calls",
        "messages[1].tool_call_id",
        "messages[1].tool_calls[0].name",
        "options.sampling.temperature",
        "options.sampling.top_p",
        "options.sampling.min_p",
        "options.sampling.repetition_penalty",
        "options.sampling.frequency_penalty",
        "options.sampling.presence_penalty",
        "options.sampling.logit_bias[3]",
    ];
    assert_eq!(fields(&status), expected);
    assert!(status.message().contains("`options.sampling.temperature` is NaN; must be from 0 to 100"));
    assert!(!front.inference.has_call().await);
}

#[tokio::test(start_paused = true)]
async fn all_that_is_wrong_with_the_other_options_is_named_at_once() {
    let front = Front::new().await;
    let options = GenerationOptions {
        stop: Some(StopConditions {
            max_tokens: Some(2),
            min_tokens: Some(3),
            stop_token_ids: vec![1; 65],
            ignore_eos: false,
        }),
        stop_strings: vec![String::new(), "x".repeat(257)],
        top_logprobs: Some(21),
        priority: Some(101),
        n: Some(0),
        safety_policy: Some(String::new()),
        ..GenerationOptions::default()
    };
    let request = ChatRequest { model: "m".repeat(257), ..ask_with("hi", options) };
    let expected = [
        "model",
        "options.stop.min_tokens",
        "options.stop.stop_token_ids",
        "options.stop_strings[0]",
        "options.stop_strings[1]",
        "options.top_logprobs",
        "options.priority",
        "options.n",
        "options.safety_policy",
    ];
    assert_eq!(fields(&refused(&front, request).await), expected);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_mistakes_still_make_an_answer() {
    let front = Front::new().await;
    let mut request = ask("hi");
    request.messages = vec![ChatMessage { role: 99, ..ChatMessage::default() }; 1_000];
    assert!(fields(&refused(&front, request).await).len() >= 10);
    let long = ChatRequest { model: "é".repeat(128), ..ask("hi") };
    assert_eq!(refused(&front, long).await.code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn the_borders_of_every_range_are_inside_it() {
    let front = Front::new().await;
    let options = |low: bool| {
        let pick = |least: f32, most: f32| Some(if low { least } else { most });
        GenerationOptions {
            sampling: Some(SamplingParams {
                temperature: pick(0.0, 100.0),
                top_p: pick(f32::MIN_POSITIVE, 1.0),
                top_k: Some(0),
                min_p: pick(0.0, 1.0),
                repetition_penalty: pick(f32::MIN_POSITIVE, 100.0),
                frequency_penalty: pick(-2.0, 2.0),
                presence_penalty: pick(-2.0, 2.0),
                logit_bias: [(0, if low { -100.0 } else { 100.0 })].into(),
                seed: Some(u64::MAX),
            }),
            stop: Some(StopConditions {
                max_tokens: Some(1),
                min_tokens: Some(1),
                stop_token_ids: vec![1; 64],
                ignore_eos: true,
            }),
            stop_strings: vec!["x".repeat(256); 16],
            top_logprobs: Some(if low { 0 } else { 20 }),
            priority: Some(if low { -100 } else { 100 }),
            n: Some(1),
            ..GenerationOptions::default()
        }
    };
    for low in [true, false] {
        let asking = front.asking(ask_with("hi", options(low)));
        let mut call = front.inference.call().await;
        call.start().await;
        asking.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_adapter_is_passed_on_and_one_that_is_not_loaded_is_named() {
    let front = Front::new().await;
    let options = |id: &str| GenerationOptions { adapter_id: Some(id.to_owned()), ..Default::default() };
    let asking = front.asking(ask_with("hi", options("poet")));
    let mut call = front.inference.call().await;
    assert_eq!(call.request.adapter_id.as_deref(), Some("poet"));
    call.start().await;
    asking.await.unwrap().unwrap();
    let unknown = "no adapter `x` is loaded; loaded are: poet";
    front.inference.refuse([weft_runtime::status::with_reason(
        Code::NotFound,
        "ADAPTER_NOT_LOADED",
        unknown,
    )]);
    let status = refused(&front, ask_with("hi", options("x"))).await;
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), format!("`options.adapter_id`: {unknown}"));
    let status = refused(&front, ask_with("hi", options(""))).await;
    assert_eq!(fields(&status), ["options.adapter_id"]);
}

#[tokio::test(start_paused = true)]
async fn conversations_and_prompts_have_limits() {
    let front = Front::with("[limits]\nmax_messages = 2\nmax_text_bytes = 10\nmax_stop_strings = 1").await;
    assert_eq!(fields(&refused(&front, ChatRequest::default()).await), ["messages"]);
    let mut many = ask("a");
    many.messages = vec![many.messages[0].clone(); 3];
    let status = refused(&front, many).await;
    assert_eq!(fields(&status), ["messages"]);
    assert!(status.message().contains("has 3 messages") && status.message().contains("limits.max_messages"));
    let status = refused(&front, ask("eleven bytes")).await;
    assert_eq!(fields(&status), ["messages"]);
    assert!(status.message().contains("has 12 bytes of text; must have at most 10"), "{}", status.message());
    let stops = GenerationOptions { stop_strings: vec!["a".to_owned(); 2], ..GenerationOptions::default() };
    assert_eq!(fields(&refused(&front, ask_with("a", stops)).await), ["options.stop_strings"]);
    let empty = front.client.clone().complete(CompleteRequest::default()).await.err().unwrap();
    assert_eq!(fields(&empty), ["prompt"]);
}

#[tokio::test(start_paused = true)]
async fn a_system_text_a_tool_result_and_an_answer_may_be_empty() {
    let front = Front::new().await;
    let empty = |role: Role| ChatMessage { role: role.into(), ..ChatMessage::default() };
    let mut request = ask("hi");
    request.messages.splice(0..0, [empty(Role::System)]);
    request.messages.extend([empty(Role::Assistant), empty(Role::Tool)]);
    let asking = front.asking(request);
    front.inference.call().await.start().await;
    asking.await.unwrap().unwrap();
}

/// Options with only a constraint.
fn constrained(form: Option<Form>) -> GenerationOptions {
    GenerationOptions { constraint: Some(Constraint { form }), ..GenerationOptions::default() }
}

fn choosing(form: Option<ToolForm>, options: GenerationOptions) -> ChatRequest {
    let tool = Tool {
        name: "add".to_owned(),
        description: "adds".to_owned(),
        parameters_json_schema: "{\"type\": \"object\", \"properties\": {}}".to_owned(),
    };
    ChatRequest { tools: vec![tool], tool_choice: Some(ToolChoice { form }), ..ask_with("hi", options) }
}

#[tokio::test(start_paused = true)]
async fn a_constraint_reaches_inference_and_its_errors_come_back_under_our_names() {
    let front = Front::new().await;
    let choice = Choice { options: vec!["a".to_owned(), "b".to_owned()] };
    let asking = front.asking(ask_with("hi", constrained(Some(Form::Choice(choice.clone())))));
    let call = front.inference.call().await;
    assert_eq!(call.request.constraint, Some(Constraint { form: Some(Form::Choice(choice)) }));
    drop(call);
    asking.await.unwrap().err().unwrap();
    let cases = [
        (ask_with("hi", constrained(Some(Form::Regex("(".to_owned())))), "options.constraint.regex"),
        (choosing(Some(ToolForm::Any(true)), GenerationOptions::default()), "tool_choice.regex"),
    ];
    for (request, field) in cases {
        front.inference.refuse([violation("constraint.regex", "is not usable")]);
        assert_eq!(fields(&refused(&front, request).await), [field]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_must_be_called_is_a_schema_for_inference() {
    let front = Front::new().await;
    let name = ToolForm::Name("add".to_owned());
    let asking = front.asking(choosing(Some(name), GenerationOptions::default()));
    let call = front.inference.call().await;
    let Some(Constraint { form: Some(Form::JsonSchema(schema)) }) = &call.request.constraint else {
        panic!("no schema in {:?}", call.request.constraint)
    };
    assert!(schema.contains("\"name\":{\"const\":\"add\"}"), "{schema}");
    drop(call);
    asking.await.unwrap().err().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_constraint_or_a_tool_choice_that_cannot_be_is_named() {
    let front = Front::with("[limits]\nmax_text_bytes = 200").await;
    let nothing = GenerationOptions::default;
    let name = || Some(ToolForm::Name("subtract".to_owned()));
    let cases = [
        (ask_with("hi", constrained(None)), "options.constraint"),
        (ask_with("hi", constrained(Some(Form::JsonObject(false)))), "options.constraint.json_object"),
        (ask_with("hi", constrained(Some(Form::Regex("a".repeat(201))))), "options.constraint"),
        (choosing(name(), nothing()), "tool_choice.name"),
        (choosing(None, nothing()), "tool_choice"),
        (choosing(Some(ToolForm::Any(false)), nothing()), "tool_choice.any"),
        (choosing(Some(ToolForm::Any(true)), constrained(Some(Form::JsonObject(true)))), "tool_choice"),
        (ChatRequest { tools: Vec::new(), ..choosing(Some(ToolForm::Any(true)), nothing()) }, "tool_choice"),
    ];
    for (request, field) in cases {
        assert_eq!(fields(&refused(&front, request).await), [field]);
    }
}
