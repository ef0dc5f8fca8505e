//! The rules that every request for text keeps, whichever API it came by.
//!
//! They are those that the contract states, so that a request is refused here, before anything was done for it. Fields are
//! named as the contract names them; who has other names renames them on the way out. What depends on the model (the length
//! of its context, the size of its vocabulary) is for inference to say.

use std::fmt::Display;

use super::{Ask, Conversation, Faults, Message, Options, Prompt, Role, Sampling, StopRules};
use crate::config::Limits;

/// Likeliest tokens that are reported at one position.
pub(crate) const MAX_TOP_LOGPROBS: u32 = 20;
const MAX_LOGIT_BIASES: usize = 1_024;
const MAX_ADAPTER_ID_BYTES: usize = 128;
const MAX_STOP_TOKEN_IDS: usize = 64;
const MAX_SALT_BYTES: usize = 128;

impl Ask {
    /// The request, if it keeps the rules and nothing else was found wrong with it.
    pub(crate) fn checked(
        mut self,
        mut faults: Faults,
        limits: &Limits,
    ) -> Result<Self, crate::error::Error> {
        faults.model(&self.model);
        match &self.prompt {
            Prompt::Chat(talk) => conversation(talk, limits, &mut faults),
            Prompt::Text { text, .. } => faults.require(!text.is_empty(), "prompt", || {
                "is empty; must have at least one character".to_owned()
            }),
            Prompt::Ids { ids, .. } => faults
                .require(!ids.is_empty(), "prompt", || "has no tokens; must have at least one".to_owned()),
        }
        options(&self.options, limits, &mut faults);
        let bytes = self.prompt.text_bytes();
        faults.bytes(self.prompt.field(), bytes, limits);
        if let Some(constraint) = &self.options.constraint {
            faults.bytes(constraint.field, constraint.form.text_bytes(), limits);
        }
        faults.into_result().map(|()| self)
    }
}

fn conversation(talk: &Conversation, limits: &Limits, faults: &mut Faults) {
    let (count, most) = (talk.messages.len(), limits.max_messages);
    faults.require((1..=most).contains(&count), "messages", || {
        format!("has {count} messages; must have 1 to {most} (limits.max_messages)")
    });
    let (count, most) = (talk.tools.len(), limits.max_tools);
    faults.require(count <= most, "tools", || {
        format!("has {count} tools; must have at most {most} (limits.max_tools)")
    });
    for (index, said) in talk.messages.iter().enumerate() {
        message(index, said, faults);
    }
    for (index, _) in talk.tools.iter().enumerate().filter(|(_, tool)| tool.name.is_empty()) {
        let rule = "is empty; must have at least one character";
        faults.wrong.push(format!("tools[{index}].name"), rule);
    }
}

fn message(index: usize, message: &Message, faults: &mut Faults) {
    let at = |field: &str| format!("messages[{index}].{field}");
    let role = message.role;
    // What the user says is what there is to answer. A system text may be empty (it replaces the template's own), a
    // tool may return nothing, and an answer of the model may have been nothing.
    faults.require(role != Role::User || !message.content.is_empty(), &at("content"), || {
        "is empty; what a user says must have at least one character".to_owned()
    });
    faults.require(role == Role::Assistant || message.tool_calls.is_empty(), &at("tool_calls"), || {
        format!("has {} calls; must be empty unless the assistant speaks", message.tool_calls.len())
    });
    faults.require(role == Role::Tool || message.tool_call_id.is_none(), &at("tool_call_id"), || {
        "is set; must not be unless a tool speaks".to_owned()
    });
    for (call, _) in message.tool_calls.iter().enumerate().filter(|(_, call)| call.name.is_empty()) {
        faults.wrong.push(at(&format!("tool_calls[{call}].name")), "is empty; must name a tool");
    }
}

fn options(options: &Options, limits: &Limits, faults: &mut Faults) {
    sampling(&options.sampling, faults);
    stop(&options.stop, limits, faults);
    in_range(faults, "top_logprobs", options.top_logprobs, 0..=MAX_TOP_LOGPROBS);
    in_range(faults, "prompt_logprobs", options.prompt_logprobs, 0..=MAX_TOP_LOGPROBS);
    in_range(faults, "priority", options.priority, -100..=100);
    let (answers, most) = (options.answers(), limits.max_answers);
    faults.require((1..=most).contains(&answers), "options.n", || {
        format!("is {answers}; must be from 1 to {most} (limits.max_answers)")
    });
    let salt_bytes = options.cache_salt.as_ref().map_or(0, String::len);
    faults.require(salt_bytes <= MAX_SALT_BYTES, "options.cache_salt", || {
        format!("has {salt_bytes} bytes; must have at most {MAX_SALT_BYTES}")
    });
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
}

fn sampling(sampling: &Sampling, faults: &mut Faults) {
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
}

fn stop(stop: &StopRules, limits: &Limits, faults: &mut Faults) {
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
    check_strings(&stop.strings, limits, faults);
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
