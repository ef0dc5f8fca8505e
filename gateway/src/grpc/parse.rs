//! A request in our own words, or everything that is wrong with it at once.
//!
//! What only the wire can get wrong is found here; the rules that every API shares stand with the words
//! ([`request`](crate::request)).

mod options;

use weft_proto::{common::v1 as common, gateway::v1 as wire};

use crate::{
    config::Limits,
    error::Error,
    request::{Ask, Conversation, Faults, Message, Prompt, Role, Tool, ToolCall, tool_choice},
};

/// Reads a request for Chat.
pub(super) fn chat(request: wire::ChatRequest, limits: &Limits) -> Result<Ask, Error> {
    let mut faults = Faults::default();
    let messages = messages(request.messages, &mut faults);
    let tools: Vec<Tool> = request.tools.into_iter().map(read_tool).collect();
    let mut options = options::read(request.options.unwrap_or_default(), &mut faults);
    if let Some(choice) = request.tool_choice {
        faults.require(options.constraint.is_none(), "tool_choice", || {
            "is set; must not be together with `options.constraint`".to_owned()
        });
        options.constraint = options::tool_choice(choice, &mut faults)
            .and_then(|choice| tool_choice::constraint(&choice, &tools, &mut faults));
    }
    let prompt = Prompt::Chat(Conversation { messages, tools });
    Ask { model: request.model, prompt, options }.checked(faults, limits)
}

/// Reads a request for Complete.
pub(super) fn complete(request: wire::CompleteRequest, limits: &Limits) -> Result<Ask, Error> {
    let mut faults = Faults::default();
    let options = options::read(request.options.unwrap_or_default(), &mut faults);
    let (ids, text) = (request.prompt_token_ids, request.prompt);
    let prompt = if ids.is_empty() {
        Prompt::Text { text, add_special_tokens: request.add_special_tokens }
    } else {
        faults.require(text.is_empty(), "prompt", || {
            "is set; must not be together with `prompt_token_ids`".to_owned()
        });
        faults.require(request.add_special_tokens.is_none(), "add_special_tokens", || {
            "is set; must not be together with `prompt_token_ids`".to_owned()
        });
        Prompt::Ids { ids, text: String::new() }
    };
    Ask { model: request.model, prompt, options }.checked(faults, limits)
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
    faults.bytes("inputs", inputs.iter().map(String::len).sum(), limits);
    faults.into_result()
}

/// Checks the name of a model that must be given.
pub(super) fn model_name(name: &str) -> Result<(), Error> {
    let mut faults = Faults::default();
    faults.model(name);
    faults.require(!name.is_empty(), "model", || "is empty; must be the name of a model".to_owned());
    faults.into_result()
}

fn messages(messages: Vec<common::ChatMessage>, faults: &mut Faults) -> Vec<Message> {
    messages.into_iter().enumerate().map(|(index, message)| read_message(index, message, faults)).collect()
}

fn read_message(index: usize, message: common::ChatMessage, faults: &mut Faults) -> Message {
    let role = read_role(index, &message, faults);
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
            // Any: nothing more is said of this message's other fields than is true of it.
            Role::System
        }
    }
}

fn read_call(call: common::ToolCall) -> ToolCall {
    ToolCall { id: call.id, name: call.name, arguments_json: call.arguments_json }
}

fn read_tool(tool: common::Tool) -> Tool {
    let common::Tool { name, description, parameters_json_schema } = tool;
    Tool { name, description, parameters_json_schema }
}
