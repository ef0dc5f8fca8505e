//! How a generation is asked to go, in our own words.

use weft_proto::{
    common::v1::{self as common, constraint::Form as WireForm},
    gateway::v1::{self as wire, tool_choice::Form as Choice},
};

use crate::request::{Constraint, Faults, Form, Options, Sampling, StopRules, tool_choice::ToolChoice};

/// Where the options have a constraint.
const CONSTRAINT: &str = "options.constraint";

pub(super) fn read(options: wire::GenerationOptions, faults: &mut Faults) -> Options {
    Options {
        sampling: sampling(options.sampling.unwrap_or_default()),
        stop: stop(options.stop.unwrap_or_default(), options.stop_strings),
        constraint: options.constraint.and_then(|asked| constraint(asked, faults)),
        top_logprobs: options.top_logprobs,
        priority: options.priority,
        n: options.n,
        cache_salt: options.cache_salt,
        safety_policy: options.safety_policy,
        adapter_id: options.adapter_id,
        ..Options::default()
    }
}

fn sampling(sampling: common::SamplingParams) -> Sampling {
    Sampling {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        logit_bias: sampling.logit_bias,
        seed: sampling.seed,
    }
}

fn stop(stop: common::StopConditions, strings: Vec<String>) -> StopRules {
    StopRules {
        max_tokens: stop.max_tokens,
        min_tokens: stop.min_tokens,
        stop_token_ids: stop.stop_token_ids,
        ignore_eos: stop.ignore_eos,
        strings,
    }
}

fn constraint(constraint: common::Constraint, faults: &mut Faults) -> Option<Constraint> {
    let form = match constraint.form {
        Some(WireForm::JsonSchema(text)) => Form::JsonSchema(text),
        Some(WireForm::Regex(text)) => Form::Regex(text),
        Some(WireForm::LarkGrammar(text)) => Form::Lark(text),
        Some(WireForm::Choice(choice)) => Form::Choice(choice.options),
        Some(WireForm::JsonObject(true)) => Form::JsonObject,
        Some(WireForm::JsonObject(false)) => {
            let rule = "is false; must be true, or another form be set";
            faults.wrong.push(format!("{CONSTRAINT}.json_object"), rule);
            return None;
        }
        None => {
            faults.wrong.push(CONSTRAINT, "has no form; must have exactly one");
            return None;
        }
    };
    Some(Constraint { form, field: CONSTRAINT })
}

/// Reads which tool must be called.
pub(super) fn tool_choice(choice: wire::ToolChoice, faults: &mut Faults) -> Option<ToolChoice> {
    match choice.form {
        Some(Choice::Any(true)) => Some(ToolChoice::Any),
        Some(Choice::Any(false)) => {
            faults.wrong.push("tool_choice.any", "is false; must be true, or `name` be set");
            None
        }
        Some(Choice::Name(name)) => Some(ToolChoice::Named(name)),
        None => {
            faults.wrong.push("tool_choice", "has no form; must have exactly one");
            None
        }
    }
}
