//! How a generation is asked to go: every rule that the contract states.

use std::fmt::Display;

use weft_proto::{common::v1 as common, gateway::v1 as wire};

use super::{Faults, constraint};
use crate::{
    config::Limits,
    request::{Options, Sampling, StopRules},
};

const MAX_TOP_LOGPROBS: u32 = 20;
const MAX_LOGIT_BIASES: usize = 1_024;
const MAX_ADAPTER_ID_BYTES: usize = 128;
const MAX_STOP_TOKEN_IDS: usize = 64;
const MAX_SALT_BYTES: usize = 128;

pub(super) fn read(options: wire::GenerationOptions, limits: &Limits, faults: &mut Faults) -> Options {
    let sampling = sampling(options.sampling.unwrap_or_default(), faults);
    let stop = stop(options.stop.unwrap_or_default(), options.stop_strings, limits, faults);
    in_range(faults, "top_logprobs", options.top_logprobs, 0..=MAX_TOP_LOGPROBS);
    in_range(faults, "priority", options.priority, -100..=100);
    let salt_bytes = options.cache_salt.as_ref().map_or(0, String::len);
    faults.require(salt_bytes <= MAX_SALT_BYTES, "options.cache_salt", || {
        format!("has {salt_bytes} bytes; must have at most {MAX_SALT_BYTES}")
    });
    faults.require(options.n != Some(0), "options.n", || "is 0; must be at least 1".to_owned());
    faults.require(options.safety_policy.as_deref() != Some(""), "options.safety_policy", || {
        "is empty; must name a policy, or be unset for the default one".to_owned()
    });
    if let Some(bytes) = options.adapter_id.as_ref().map(String::len) {
        faults.require((1..=MAX_ADAPTER_ID_BYTES).contains(&bytes), "options.adapter_id", || {
            format!(
                "has {bytes} bytes; must have 1 to {MAX_ADAPTER_ID_BYTES}, or be unset for the base model"
            )
        });
    }
    faults.unserved(options.n.is_some_and(|n| n > 1), "options.n");
    let constraint = options.constraint.and_then(|asked| constraint::read(asked, faults));
    Options {
        sampling,
        stop,
        constraint,
        top_logprobs: options.top_logprobs,
        priority: options.priority,
        cache_salt: options.cache_salt,
        safety_policy: options.safety_policy,
        adapter_id: options.adapter_id,
    }
}

fn sampling(sampling: common::SamplingParams, faults: &mut Faults) -> Sampling {
    in_range(faults, "sampling.temperature", sampling.temperature, 0.0..=100.0);
    above_zero(faults, "sampling.top_p", sampling.top_p, 1.0);
    in_range(faults, "sampling.min_p", sampling.min_p, 0.0..=1.0);
    above_zero(faults, "sampling.repetition_penalty", sampling.repetition_penalty, 100.0);
    in_range(faults, "sampling.frequency_penalty", sampling.frequency_penalty, -2.0..=2.0);
    in_range(faults, "sampling.presence_penalty", sampling.presence_penalty, -2.0..=2.0);
    let biases = sampling.logit_bias.len();
    faults.require(biases <= MAX_LOGIT_BIASES, "options.sampling.logit_bias", || {
        format!("has {biases} entries; must have at most {MAX_LOGIT_BIASES}")
    });
    for (id, bias) in sampling.logit_bias.iter().take(MAX_LOGIT_BIASES) {
        in_range(faults, &format!("sampling.logit_bias[{id}]"), Some(*bias), -100.0..=100.0);
    }
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

fn stop(
    stop: common::StopConditions,
    strings: Vec<String>,
    limits: &Limits,
    faults: &mut Faults,
) -> StopRules {
    faults.require(stop.max_tokens != Some(0), "options.stop.max_tokens", || {
        "is 0; must be at least 1".to_owned()
    });
    if let (Some(min), Some(max)) = (stop.min_tokens, stop.max_tokens) {
        faults.require(min <= max, "options.stop.min_tokens", || {
            format!("is {min}; must be at most `options.stop.max_tokens` ({max})")
        });
    }
    let ids = stop.stop_token_ids.len();
    faults.require(ids <= MAX_STOP_TOKEN_IDS, "options.stop.stop_token_ids", || {
        format!("has {ids} ids; must have at most {MAX_STOP_TOKEN_IDS}")
    });
    check_strings(&strings, limits, faults);
    StopRules {
        max_tokens: stop.max_tokens,
        min_tokens: stop.min_tokens,
        stop_token_ids: stop.stop_token_ids,
        ignore_eos: stop.ignore_eos,
        strings,
    }
}

fn check_strings(strings: &[String], limits: &Limits, faults: &mut Faults) {
    let (count, most) = (strings.len(), limits.max_stop_strings);
    faults.require(count <= most, "options.stop_strings", || {
        format!("has {count} strings; must have at most {most} (limits.max_stop_strings)")
    });
    let most_bytes = limits.max_stop_string_bytes;
    for (index, string) in strings.iter().take(most).enumerate() {
        let bytes = string.len();
        faults.require((1..=most_bytes).contains(&bytes), &format!("options.stop_strings[{index}]"), || {
            format!("has {bytes} bytes; must have 1 to {most_bytes} (limits.max_stop_string_bytes)")
        });
    }
}

/// Notes a value outside of a range. Not a number is in no range.
fn in_range<T>(faults: &mut Faults, field: &str, value: Option<T>, range: std::ops::RangeInclusive<T>)
where
    T: PartialOrd + Display,
{
    if let Some(value) = value.filter(|value| !range.contains(value)) {
        let (least, most) = range.into_inner();
        faults.wrong.push(format!("options.{field}"), format!("is {value}; must be from {least} to {most}"));
    }
}

/// Notes a value that is not above 0, or above `most`.
fn above_zero(faults: &mut Faults, field: &str, value: Option<f32>, most: f32) {
    if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= most)) {
        let rule = format!("is {value}; must be above 0 and at most {most}");
        faults.wrong.push(format!("options.{field}"), rule);
    }
}
