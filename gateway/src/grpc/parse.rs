//! A request in our own words, or everything that is wrong with it at once.
//!
//! The rules of generation are those that the contract states, so that a request is refused here with the names of
//! its own fields, and before anything was done for it. What depends on the model (the length of its context, the size
//! of its vocabulary) is for inference to say.

mod constraint;
mod options;

use weft_proto::{common::v1 as common, gateway::v1 as wire};
use weft_runtime::status::{Violations, unserved};

use crate::{
    config::Limits,
    error::Error,
    request::{Ask, Constraint, Conversation, Message, Prompt, Role, Tool, ToolCall},
};

/// The longest name of a model.
const MAX_MODEL_BYTES: usize = 256;

/// What is wrong with a request.
#[derive(Debug, Default)]
struct Faults {
    /// Fields that break a rule.
    wrong: Violations,
    /// A field that is not served yet: reported only when nothing else is wrong.
    unserved: Option<&'static str>,
}

/// Reads a request for Chat.
pub(super) fn chat(request: wire::ChatRequest, limits: &Limits) -> Result<Ask, Error> {
    let mut faults = Faults::default();
    faults.model(&request.model);
    let messages = messages(request.messages, limits, &mut faults);
    let tools = tools(request.tools, limits, &mut faults);
    let mut options = options::read(request.options.unwrap_or_default(), limits, &mut faults);
    if let Some(choice) = request.tool_choice {
        faults.require(options.constraint.is_none(), "tool_choice", || {
            "is set; must not be together with `options.constraint`".to_owned()
        });
        options.constraint = constraint::of_tools(choice, &tools, &mut faults);
    }
    let prompt = Prompt::Chat(Conversation { messages, tools });
    faults.finish(Ask { model: request.model, prompt, options }, limits)
}

/// Reads a request for Complete.
pub(super) fn complete(request: wire::CompleteRequest, limits: &Limits) -> Result<Ask, Error> {
    let mut faults = Faults::default();
    faults.model(&request.model);
    faults.require(!request.prompt.is_empty(), "prompt", || {
        "is empty; must have at least one character".to_owned()
    });
    let options = options::read(request.options.unwrap_or_default(), limits, &mut faults);
    let prompt = Prompt::Text { text: request.prompt, add_special_tokens: request.add_special_tokens };
    faults.finish(Ask { model: request.model, prompt, options }, limits)
}

/// Checks the model and the inputs of Embed.
pub(super) fn embed(model: &str, inputs: &[String], limits: &Limits) -> Result<(), Error> {
    let mut faults = Faults::default();
    faults.model(model);
    let (count, most) = (inputs.len(), limits.max_embed_inputs);
    faults.require((1..=most).contains(&count), "inputs", || {
        format!("has {count} texts; must have 1 to {most} (limits.max_embed_inputs)")
    });
    for (index, _) in inputs.iter().enumerate().filter(|(_, input)| input.is_empty()) {
        faults.wrong.push(format!("inputs[{index}]"), "is empty; must have at least one character");
    }
    faults.text_bytes("inputs", inputs, limits);
    faults.into_result()
}

/// Checks the name of a model that must be given.
pub(super) fn model_name(name: &str) -> Result<(), Error> {
    let mut faults = Faults::default();
    faults.model(name);
    faults.require(!name.is_empty(), "model", || "is empty; must be the name of a model".to_owned());
    faults.into_result()
}

impl Faults {
    fn require(&mut self, holds: bool, field: &str, description: impl FnOnce() -> String) {
        self.wrong.require(holds, field, description);
    }

    /// A name that is not served is repeated in the answer, which has to fit into a header.
    fn model(&mut self, name: &str) {
        let bytes = name.len();
        self.require(bytes <= MAX_MODEL_BYTES, "model", || {
            format!("has {bytes} bytes; must have at most {MAX_MODEL_BYTES}")
        });
    }

    /// Notes a field that is set but not served yet.
    fn unserved(&mut self, set: bool, field: &'static str) {
        if set && self.unserved.is_none() {
            self.unserved = Some(field);
        }
    }

    fn text_bytes(&mut self, field: &str, texts: &[String], limits: &Limits) {
        let (bytes, most) = (texts.iter().map(String::len).sum::<usize>(), limits.max_text_bytes);
        self.require(bytes <= most, field, || {
            format!("has {bytes} bytes of text; must have at most {most} (limits.max_text_bytes)")
        });
    }

    fn finish(mut self, mut ask: Ask, limits: &Limits) -> Result<Ask, Error> {
        let (bytes, most) = (ask.prompt.text_bytes(), limits.max_text_bytes);
        self.require(bytes <= most, ask.prompt.field(), || {
            format!("has {bytes} bytes of text; must have at most {most} (limits.max_text_bytes)")
        });
        if let Some(Constraint { form, field }) = &ask.options.constraint {
            let bytes = form.text_bytes();
            self.require(bytes <= most, field, || {
                format!("has {bytes} bytes of text; must have at most {most} (limits.max_text_bytes)")
            });
        }
        self.into_result().map(|()| ask)
    }

    fn into_result(self) -> Result<(), Error> {
        self.wrong.into_result().map_err(Error::Refused)?;
        self.unserved.map_or(Ok(()), |field| Err(Error::Refused(unserved(field))))
    }
}

fn messages(messages: Vec<common::ChatMessage>, limits: &Limits, faults: &mut Faults) -> Vec<Message> {
    let (count, most) = (messages.len(), limits.max_messages);
    faults.require((1..=most).contains(&count), "messages", || {
        format!("has {count} messages; must have 1 to {most} (limits.max_messages)")
    });
    // No more are read than may be there, so that a list of a million mistakes does not become an answer.
    let read = |(index, message)| read_message(index, message, faults);
    messages.into_iter().take(most).enumerate().map(read).collect()
}

fn read_message(index: usize, message: common::ChatMessage, faults: &mut Faults) -> Message {
    let role = read_role(index, &message, faults);
    let at = |field: &str| format!("messages[{index}].{field}");
    // What the user says is what there is to answer. A system text may be empty (it replaces the template's own), a
    // tool may return nothing, and an answer of the model may have been nothing.
    faults.require(role != Role::User || !message.content.is_empty(), &at("content"), || {
        "is empty; what a user says must have at least one character".to_owned()
    });
    faults.require(role == Role::Assistant || message.tool_calls.is_empty(), &at("tool_calls"), || {
        format!("has {} calls; must be empty unless the role is ROLE_ASSISTANT", message.tool_calls.len())
    });
    faults.require(role == Role::Tool || message.tool_call_id.is_none(), &at("tool_call_id"), || {
        "is set; must not be unless the role is ROLE_TOOL".to_owned()
    });
    for (call, _) in message.tool_calls.iter().enumerate().filter(|(_, call)| call.name.is_empty()) {
        faults.wrong.push(at(&format!("tool_calls[{call}].name")), "is empty; must name a tool");
    }
    let tool_calls = message.tool_calls.into_iter().map(read_call).collect();
    Message {
        role,
        content: message.content,
        name: message.name,
        tool_calls,
        tool_call_id: message.tool_call_id,
    }
}

fn read_role(index: usize, message: &common::ChatMessage, faults: &mut Faults) -> Role {
    match common::Role::try_from(message.role) {
        Ok(common::Role::System) => Role::System,
        Ok(common::Role::User) => Role::User,
        Ok(common::Role::Assistant) => Role::Assistant,
        Ok(common::Role::Tool) => Role::Tool,
        Ok(common::Role::Unspecified) | Err(_) => {
            let role = message.role;
            faults.wrong.push(
                format!("messages[{index}].role"),
                format!("is {role}; must be ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL"),
            );
            Role::System
        }
    }
}

fn read_call(call: common::ToolCall) -> ToolCall {
    ToolCall { id: call.id, name: call.name, arguments_json: call.arguments_json }
}

fn tools(tools: Vec<common::Tool>, limits: &Limits, faults: &mut Faults) -> Vec<Tool> {
    let (count, most) = (tools.len(), limits.max_tools);
    faults.require(count <= most, "tools", || {
        format!("has {count} tools; must have at most {most} (limits.max_tools)")
    });
    let mut read = |(index, tool): (usize, common::Tool)| {
        faults.require(!tool.name.is_empty(), &format!("tools[{index}].name"), || {
            "is empty; must have at least one character".to_owned()
        });
        let common::Tool { name, description, parameters_json_schema } = tool;
        Tool { name, description, parameters_json_schema }
    };
    tools.into_iter().take(most).enumerate().map(&mut read).collect()
}
