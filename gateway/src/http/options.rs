//! What completions of both kinds are asked for in the same words: OpenAI's, and those of our own contract that it lacks.

use serde_json::{Map, Value};

use super::json::{Fields, Read, Rule, Seed};
use crate::request::{Options, Sampling, StopRules};

/// How the answer is delivered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivery {
    /// As events, while it is made.
    pub(super) stream: bool,
    /// Whether the last event says what was consumed.
    pub(super) usage: bool,
}

/// Fields of both kinds that are not read, and what is done about them.
pub(super) const RULES: [(&str, Rule); 4] = [
    ("user", Rule::Harmless),
    ("metadata", Rule::Harmless),
    ("store", Rule::Only(&["false"])),
    ("service_tier", Rule::Only(&["\"auto\"", "\"default\""])),
];

/// Reads how the answer is delivered.
pub(super) fn delivery(fields: &mut Fields<'_>) -> Delivery {
    let stream = fields.take("stream").unwrap_or(false);
    let usage = fields.within("stream_options", |mut options| {
        let usage = options.take("include_usage").unwrap_or(false);
        options.finish(&[("include_obfuscation", Rule::Only(&["false"]))]);
        usage
    });
    if usage.is_some() && !stream {
        fields.wrong("stream_options", "is set; must not be unless `stream` is true");
    }
    Delivery { stream, usage: usage.unwrap_or(false) }
}

/// Reads how the answer is made. Ranges are checked with those of every API.
pub(super) fn options(fields: &mut Fields<'_>) -> Options {
    Options {
        sampling: sampling(fields),
        stop: StopRules {
            max_tokens: fields.take("max_tokens"),
            strings: fields.take::<OneOrMany>("stop").map(|strings| strings.0).unwrap_or_default(),
            // Of our own contract.
            min_tokens: fields.take("min_tokens"),
            stop_token_ids: fields.take("stop_token_ids").unwrap_or_default(),
            ignore_eos: fields.take("ignore_eos").unwrap_or(false),
        },
        n: fields.take("n"),
        priority: fields.take("priority"),
        cache_salt: fields.take("cache_salt"),
        safety_policy: fields.take("safety_policy"),
        adapter_id: fields.take("adapter_id"),
        ..Options::default()
    }
}

fn sampling(fields: &mut Fields<'_>) -> Sampling {
    Sampling {
        temperature: fields.take("temperature"),
        top_p: fields.take("top_p"),
        frequency_penalty: fields.take("frequency_penalty"),
        presence_penalty: fields.take("presence_penalty"),
        logit_bias: logit_bias(fields),
        seed: fields.take::<Seed>("seed").map(|seed| seed.0),
        // Of our own contract.
        top_k: fields.take("top_k"),
        min_p: fields.take("min_p"),
        repetition_penalty: fields.take("repetition_penalty"),
    }
}

fn logit_bias(fields: &mut Fields<'_>) -> std::collections::HashMap<u32, f32> {
    let given: Map<String, Value> = fields.take("logit_bias").unwrap_or_default();
    let mut biases = std::collections::HashMap::with_capacity(given.len());
    for (id, bias) in given {
        match (id.parse(), f32::read(bias)) {
            (Ok(id), Ok(bias)) => {
                biases.insert(id, bias);
            }
            (Err(_), _) => fields.wrong(&format!("logit_bias[{id:?}]"), "must have the id of a token as key"),
            (_, Err(_)) => fields.wrong(&format!("logit_bias[{id}]"), "must be a number"),
        }
    }
    biases
}

/// A string, or a list of strings.
#[derive(Clone, Debug)]
struct OneOrMany(Vec<String>);

impl Read for OneOrMany {
    const EXPECTED: &'static str = "a string or a list of strings";
    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::String(one) => Ok(Self(vec![one])),
            many => Vec::<String>::read(many).map(Self),
        }
    }
}
