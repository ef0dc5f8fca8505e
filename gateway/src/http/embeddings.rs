//! `POST /v1/embeddings`.

use axum::extract::{Request, State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::{Status, body::Body};

use super::{
    Desk, Refusal,
    completions::parse::Prompts,
    json::{self, Fields, Rule},
    wire,
};
use crate::{
    config::Limits,
    pipeline::{Embedded, Inputs},
    request::{Faults, Scope},
};

#[derive(Debug, Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    /// Little-endian, in base64: what OpenAI's clients ask for unless told otherwise.
    Base64(String),
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

/// Embeds texts or tokens.
pub(super) async fn embed(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Refusal> {
    let scope = desk.scope(&request)?;
    desk.told(&scope, answer(&desk, &scope, request).await)
}

async fn answer(desk: &Desk, scope: &Scope, request: Request) -> Result<Response<Body>, Status> {
    let body = json::object(request, desk.most_bytes).await?;
    let Asked { model, inputs, base64, dimensions } = read(body, &desk.limits)?;
    let Embedded { vectors, usage } = desk.pipeline.embed(scope, &model, inputs).await?;
    let width = vectors.first().map_or(0, Vec::len);
    if let Some(asked) = dimensions.filter(|asked| *asked as usize != width) {
        let rule = format!("is {asked}; must be {width}, the model's own, or left out");
        return Err(weft_runtime::status::violation("dimensions", &rule));
    }
    let told = |(index, vector)| Embedding { object: "embedding", index, embedding: encoded(vector, base64) };
    wire::json(&List {
        object: "list",
        data: vectors.into_iter().enumerate().map(told).collect(),
        model: &model,
        usage: Usage { prompt_tokens: usage.prompt, total_tokens: usage.prompt },
    })
}

fn encoded(vector: Vec<f32>, base64: bool) -> Vector {
    if !base64 {
        return Vector::Floats(vector);
    }
    let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
    Vector::Base64(STANDARD.encode(bytes))
}

#[derive(Debug)]
struct Asked {
    model: String,
    inputs: Inputs,
    base64: bool,
    dimensions: Option<u32>,
}

fn read(body: Map<String, Value>, limits: &Limits) -> Result<Asked, Status> {
    let mut faults = Faults::default();
    let mut fields = Fields::new(body, &mut faults);
    let model: String = fields.need("model");
    let inputs = match fields.required("input") {
        Some(Prompts::Texts(texts)) => Inputs::Texts(texts),
        Some(Prompts::Ids(lists)) => Inputs::Ids(lists),
        // It was noted.
        None => Inputs::Texts(vec![" ".to_owned()]),
    };
    let format: Option<String> = fields.take("encoding_format");
    let base64 = match format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            fields.wrong("encoding_format", format!("is {other:?}; must be \"float\" or \"base64\""));
            false
        }
    };
    let dimensions = fields.take("dimensions");
    fields.finish(&[("user", Rule::Harmless)]);
    faults.model(&model);
    check(&inputs, limits, &mut faults);
    faults.into_result()?;
    Ok(Asked { model, inputs, base64, dimensions })
}

fn check(inputs: &Inputs, limits: &Limits, faults: &mut Faults) {
    let (lengths, unit): (Vec<usize>, _) = match inputs {
        Inputs::Texts(texts) => (texts.iter().map(String::len).collect(), "character"),
        Inputs::Ids(lists) => (lists.iter().map(Vec::len).collect(), "token"),
    };
    let (count, most) = (lengths.len(), limits.max_embed_inputs);
    faults.require((1..=most).contains(&count), "input", || {
        format!("has {count} inputs; must have 1 to {most} (limits.max_embed_inputs)")
    });
    for (index, _) in lengths.iter().enumerate().filter(|(_, length)| **length == 0) {
        faults.wrong.push(format!("input[{index}]"), format!("is empty; must have at least one {unit}"));
    }
    if matches!(inputs, Inputs::Texts(_)) {
        faults.bytes("input", lengths.iter().sum(), limits);
    }
}
