//! A completion as it is asked for.

use serde_json::{Map, Value};
use tonic::Status;

use crate::{
    config::Limits,
    http::{
        json::{Fields, Read, Rule},
        options::{self, Delivery, RULES},
    },
    request::{Ask, Faults, MAX_TOP_LOGPROBS, Options, Prompt},
};

/// OpenAI's default.
const MAX_TOKENS: u32 = 16;

/// Fields that are not read, and what is done about them, beside those of [`RULES`].
const COMPLETION_RULES: [(&str, Rule); 2] = [
    ("suffix", Rule::Unserved("the model continues texts, and fills none in")),
    ("best_of", Rule::Only(&["1"])),
];

/// Completions that can be made.
#[derive(Debug)]
pub(super) struct Asked {
    /// One for each prompt, in order.
    pub(super) asks: Vec<Ask>,
    pub(super) delivery: Delivery,
    /// Whether only the prompts are told, and nothing that the model says after them.
    pub(super) prompt_only: bool,
}

/// Reads a request.
pub(super) fn read(body: Map<String, Value>, limits: &Limits) -> Result<Asked, Status> {
    let mut faults = Faults::default();
    let mut fields = Fields::new(body, &mut faults);
    let model: String = fields.need("model");
    let special = fields.take("add_special_tokens");
    let prompts = prompts(&mut fields, special);
    let delivery = options::delivery(&mut fields);
    let mut options = options::options(&mut fields);
    options.echo = fields.take("echo").unwrap_or(false);
    options.top_logprobs = logprobs(&mut fields);
    options.prompt_logprobs = options.top_logprobs.filter(|_| options.echo);
    let most = *options.stop.max_tokens.get_or_insert(MAX_TOKENS);
    // The model makes one token after reading the prompt in any case.
    let prompt_only = most == 0;
    if prompt_only {
        options.stop.max_tokens = Some(1);
    }
    let rules: Vec<_> = COMPLETION_RULES.into_iter().chain(RULES).collect();
    fields.finish(&rules);
    let count = prompts.len();
    faults.require((1..=limits.max_prompts).contains(&count), "prompt", || {
        format!("has {count} prompts; must have 1 to {} (limits.max_prompts)", limits.max_prompts)
    });
    let asks = asks(&model, prompts, &options, faults, limits)?;
    Ok(Asked { asks, delivery, prompt_only })
}

/// OpenAI's older name for what our contract calls `top_logprobs`.
fn logprobs(fields: &mut Fields<'_>) -> Option<u32> {
    let top = fields.take::<u32>("logprobs")?;
    if top > MAX_TOP_LOGPROBS {
        fields.wrong("logprobs", format!("is {top}; must be from 0 to {MAX_TOP_LOGPROBS}"));
        return None;
    }
    Some(top)
}

fn asks(
    model: &str,
    prompts: Vec<Prompt>,
    options: &Options,
    faults: Faults,
    limits: &Limits,
) -> Result<Vec<Ask>, Status> {
    faults.into_result()?;
    let ask = |prompt| Ask { model: model.to_owned(), prompt, options: options.clone() };
    let checked = |prompt| Ok(ask(prompt).checked(Faults::default(), limits)?);
    prompts.into_iter().map(checked).collect()
}

/// One prompt or several, each a text or tokens.
fn prompts(fields: &mut Fields<'_>, special: Option<bool>) -> Vec<Prompt> {
    let Some(given) = fields.required::<Prompts>("prompt") else { return Vec::new() };
    let text = |text| Prompt::Text { text, add_special_tokens: special };
    let ids = |ids| Prompt::Ids { ids, text: String::new() };
    match given {
        Prompts::Texts(texts) => texts.into_iter().map(text).collect(),
        Prompts::Ids(lists) => {
            if special == Some(true) {
                fields.wrong("add_special_tokens", "is true; must not where `prompt` is tokens");
            }
            lists.into_iter().map(ids).collect()
        }
    }
}

/// What a prompt can be; of embeddings, an input.
#[derive(Debug)]
pub(in crate::http) enum Prompts {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

impl Read for Prompts {
    const EXPECTED: &'static str =
        "a string, a list of strings, a list of token ids, or a list of such lists";
    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::String(text) => Ok(Self::Texts(vec![text])),
            value if is_list_of(&value, Value::is_string) => Vec::<String>::read(value).map(Self::Texts),
            value if is_list_of(&value, Value::is_number) => Ok(Self::Ids(vec![Vec::<u32>::read(value)?])),
            Value::Array(lists) if lists.iter().all(Value::is_array) && !lists.is_empty() => {
                lists.into_iter().map(Vec::<u32>::read).collect::<Result<_, _>>().map(Self::Ids)
            }
            other => Err(other),
        }
    }
}

fn is_list_of(value: &Value, kind: fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(kind))
}
