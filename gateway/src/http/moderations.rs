//! `POST /v1/moderations`: what our safety filter finds.
//!
//! The categories are those of its policy, under their own names; `model` is the policy's name. One of OpenAI's own names
//! is none: the default policy answers, by its name. Its detectors find or do not find, so a score is 1 or 0.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use http::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::{Status, body::Body};

use super::{
    Desk, Refusal,
    json::{self, Fields},
    wire,
};
use crate::{
    config::Limits,
    outbound::safety::{Action, Screened},
    pipeline::Moderated,
    request::{Faults, Scope},
};

#[derive(Debug, Serialize)]
struct Moderation<'a> {
    id: String,
    model: &'a str,
    results: Vec<Found<'a>>,
}

#[derive(Debug, Serialize)]
struct Found<'a> {
    flagged: bool,
    categories: BTreeMap<&'a str, bool>,
    category_scores: BTreeMap<&'a str, f32>,
    category_applied_input_types: BTreeMap<&'a str, [&'static str; 1]>,
}

/// Says what is found in texts.
pub(super) async fn moderate(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Refusal> {
    let scope = desk.scope(&request)?;
    desk.told(&scope, answer(&desk, &scope, request).await)
}

async fn answer(desk: &Desk, scope: &Scope, request: Request) -> Result<Response<Body>, Status> {
    let body = json::object(request, desk.most_bytes).await?;
    let (policy, texts) = read(body, &desk.limits)?;
    let Moderated { policy, categories, screened } =
        desk.pipeline.moderate(scope, policy.as_deref(), texts).await?;
    wire::json(&Moderation {
        id: format!("modr-{}", scope.request_id),
        model: &policy,
        results: screened.iter().map(|screened| found(&categories, screened)).collect(),
    })
}

fn found<'a>(categories: &'a [String], screened: &'a Screened) -> Found<'a> {
    // What is listed, and what was found: a filter may be reloaded in between.
    let all = categories.iter().chain(screened.findings.iter().map(|finding| &finding.category));
    let is_found = |category: &str| screened.findings.iter().any(|finding| finding.category == category);
    let categories: BTreeMap<&str, bool> =
        all.map(|category| (category.as_str(), is_found(category))).collect();
    Found {
        flagged: screened.action > Action::Allow,
        category_scores: categories
            .iter()
            .map(|(name, found)| (*name, f32::from(u8::from(*found))))
            .collect(),
        category_applied_input_types: categories.keys().map(|name| (*name, ["text"])).collect(),
        categories,
    }
}

fn read(body: Map<String, Value>, limits: &Limits) -> Result<(Option<String>, Vec<String>), Status> {
    let mut faults = Faults::default();
    let mut fields = Fields::new(body, &mut faults);
    let policy = fields.take("model").filter(|name: &String| !is_openais(name));
    let texts = inputs(&mut fields);
    fields.finish(&[]);
    let (count, most) = (texts.len(), limits.max_embed_inputs);
    faults.require((1..=most).contains(&count), "input", || {
        format!("has {count} texts; must have 1 to {most} (limits.max_embed_inputs)")
    });
    faults.bytes("input", texts.iter().map(String::len).sum(), limits);
    faults.into_result()?;
    Ok((policy, texts))
}

/// Whether a model is one that OpenAI's clients name because theirs do.
fn is_openais(model: &str) -> bool {
    ["omni-moderation-", "text-moderation-"].iter().any(|family| model.starts_with(family))
}

/// A text, texts, or parts of one input, which are screened together.
fn inputs(fields: &mut Fields<'_>) -> Vec<String> {
    match fields.take::<Value>("input") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            items.into_iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        Some(parts @ Value::Array(_)) => {
            fields.put("input", parts);
            vec![fields.each("input", super::chat::part).join("\n")]
        }
        _ => {
            fields.wrong("input", "must be a string, a list of strings, or a list of parts that are text");
            Vec::new()
        }
    }
}
