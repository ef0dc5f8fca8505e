//! Structured output, through all four services.

use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Code;
use weft_proto::{
    common::v1::{Choice, Constraint, FinishReason, SamplingParams, StopConditions, Tool, constraint::Form},
    gateway::v1::{ChatRequest, GenerationOptions, ToolChoice, tool_choice::Form as ToolForm},
};
use weft_tests::{Answer, Brain, Caller, Mesh, caller::chat, golden};

use crate::soon;

/// A schema and a question that it answers.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    ask: String,
    schema: Value,
}

/// Sampled at the temperature where a model of this size says anything at all.
fn sampled(seed: u64, max_tokens: u32) -> GenerationOptions {
    GenerationOptions {
        sampling: Some(SamplingParams {
            temperature: Some(1.0),
            seed: Some(seed),
            ..SamplingParams::default()
        }),
        stop: Some(StopConditions { max_tokens: Some(max_tokens), ..StopConditions::default() }),
        ..GenerationOptions::default()
    }
}

fn constrained(form: Form, options: GenerationOptions) -> GenerationOptions {
    GenerationOptions { constraint: Some(Constraint { form: Some(form) }), ..options }
}

fn asking(case: &Case, seed: u64) -> ChatRequest {
    let form = Form::JsonSchema(case.schema.to_string());
    chat(&case.ask, constrained(form, sampled(seed, 160)))
}

async fn answer(caller: &Caller, request: ChatRequest) -> Answer {
    soon("a structured answer", caller.answer(request)).await.expect("an answer")
}

/// Whether it is complete. What is complete is valid, and what is not says so.
fn is_valid(answer: &Answer, schema: &Value, name: &str) -> bool {
    if answer.reason() == FinishReason::Length {
        return false;
    }
    assert_eq!(answer.reason(), FinishReason::Stop, "{name}");
    let value: Value = serde_json::from_str(&answer.text).unwrap_or_else(|error| {
        panic!("{name}: {error} in {:?}", answer.text);
    });
    let validator = jsonschema::options().should_validate_formats(true).build(schema).expect("is a schema");
    assert!(validator.is_valid(&value), "{name}: {value}");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_model_holds_to_every_schema_alone_and_among_all_others() {
    let mesh = Mesh::with(Brain::SmolLm2).await;
    let (caller, cases) = (mesh.caller(), golden::read::<Vec<Case>>("schemas.json"));
    assert!(cases.len() >= 20, "{}", cases.len());
    let together =
        join_all(cases.iter().zip(1..).map(|(case, seed)| answer(&caller, asking(case, seed)))).await;
    let complete = cases
        .iter()
        .zip(&together)
        .filter(|(case, answer)| is_valid(answer, &case.schema, &case.name))
        .count();
    assert!(complete * 10 >= cases.len() * 7, "only {complete} of {} answers are complete", cases.len());
    for (index, case) in cases.iter().enumerate().step_by(6) {
        let alone = answer(&caller, asking(case, index as u64 + 1)).await;
        assert_eq!(alone.text, together[index].text, "{}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_grammars_and_choices_are_kept() {
    let mesh = Mesh::with(Brain::SmolLm2).await;
    let caller = mesh.caller();
    let lark = "start: \"SELECT \" NAME \" FROM \" NAME\nNAME: /[a-z]{1,12}/";
    let choice = Choice { options: ["north", "north-east", "south"].map(str::to_owned).into() };
    let cases = [
        (Form::Regex("[0-9]{3}-[0-9]{4}".to_owned()), "^[0-9]{3}-[0-9]{4}$"),
        (Form::LarkGrammar(lark.to_owned()), "^SELECT [a-z]{1,12} FROM [a-z]{1,12}$"),
        (Form::Choice(choice), "^(north|north-east|south)$"),
    ];
    for (form, expected) in cases {
        let request = chat("Answer.", constrained(form, sampled(5, 60)));
        let answer = answer(&caller, request).await;
        assert_eq!(answer.reason(), FinishReason::Stop);
        assert!(regex::Regex::new(expected).unwrap().is_match(&answer.text), "{expected}: {}", answer.text);
    }
    let object = chat("Answer.", constrained(Form::JsonObject(true), sampled(6, 200)));
    let answer = answer(&caller, object).await;
    if answer.reason() == FinishReason::Stop {
        assert!(serde_json::from_str::<Value>(&answer.text).unwrap().is_object(), "{}", answer.text);
    }
}

fn tool(name: &str, parameters: &Value) -> Tool {
    Tool {
        name: name.to_owned(),
        description: format!("What {name} does."),
        parameters_json_schema: parameters.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_must_be_called_is_called_with_arguments_of_its_schema() {
    let mesh = Mesh::with(Brain::SmolLm2).await;
    let place = json!({
        "type": "object",
        "properties": { "city": { "$ref": "#/$defs/name" } },
        "required": ["city"],
        "additionalProperties": false,
        "$defs": { "name": { "type": "string", "minLength": 1, "maxLength": 12 } },
    });
    let sum = json!({
        "type": "object",
        "properties": { "a": { "type": "integer", "maximum": 99, "minimum": 0 } },
        "required": ["a"],
        "additionalProperties": false,
    });
    let ask = |form| ChatRequest {
        tools: vec![tool("weather", &place), tool("add", &sum)],
        tool_choice: Some(ToolChoice { form: Some(form) }),
        ..chat("How warm is it in Paris?", sampled(3, 80))
    };
    for (form, names) in
        [(ToolForm::Name("add".to_owned()), vec!["add"]), (ToolForm::Any(true), vec!["weather", "add"])]
    {
        let answer = answer(&mesh.caller(), ask(form)).await;
        assert_eq!(answer.reason(), FinishReason::Stop, "{}", answer.text);
        let call: Value = serde_json::from_str(&answer.text).unwrap();
        let name = call["name"].as_str().unwrap();
        assert!(names.contains(&name), "{call}");
        let schema = if name == "add" { &sum } else { &place };
        assert!(jsonschema::is_valid(schema, &call["arguments"]), "{call}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_is_not_one_is_refused_by_its_field_and_others_go_on() {
    let mesh = Mesh::with(Brain::Saying(golden::greedy()[0].greedy_ids.clone())).await;
    let cases = [
        (Form::JsonSchema("{\"type\": \"strin\"}".to_owned()), "options.constraint.json_schema"),
        (Form::Regex("(".to_owned()), "options.constraint.regex"),
        (Form::LarkGrammar("start: nobody".to_owned()), "options.constraint.lark_grammar"),
        (Form::Choice(Choice::default()), "options.constraint.choice.options"),
        (Form::Regex("a".repeat(70_000)), "options.constraint.regex"),
    ];
    for (form, field) in cases {
        let request = chat("Hello?", constrained(form, sampled(1, 4)));
        let status = soon("a refusal", mesh.caller().answer(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(field), "{field} is missing in {:?}", status.message());
    }
    soon("an answer", mesh.caller().ask("Hello?", 4)).await.unwrap();
}
