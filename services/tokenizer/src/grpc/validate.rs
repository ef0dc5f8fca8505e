//! What a request must keep to, every problem of it at once.

use serde_json::{Map, Value};
use tonic::Status;
use weft_proto::{
    common::v1::{self as wire, ChatMessage},
    tokenizer::v1::EncodeChatRequest,
};
use weft_runtime::status::Violations;

use crate::{
    config::Limits,
    conversation::{Conversation, Message, Role, Tool, ToolCall},
    tokenizer::Tokenizer,
};

/// A text to encode.
pub(super) fn text(text: &str, limits: &Limits) -> Result<(), Status> {
    let mut violations = Violations::new();
    require_at_most(&mut violations, "text", text.len(), limits.max_text_bytes);
    violations.into_result()
}

/// Ids to decode; `earlier` came before them in the same text. Of ids outside the vocabulary the first is named: one
/// is a mistake of the caller's, many are the same one.
pub(super) fn ids(ids: &[u32], earlier: usize, tokenizer: &Tokenizer, limits: &Limits) -> Result<(), Status> {
    let mut violations = Violations::new();
    let total = earlier + ids.len();
    violations.require(total <= limits.max_token_ids, "token_ids", || {
        format!("come to {total} ids in this text; must be at most {}", limits.max_token_ids)
    });
    let size = tokenizer.vocabulary_size();
    if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id >= size) {
        violations.push(format!("token_ids[{index}]"), format!("is {id}; must be below {size}"));
    }
    violations.into_result()
}

/// The sizes of a conversation, before anything in it is looked at closely; gives the bytes of all its texts.
pub(super) fn sizes(request: &EncodeChatRequest, limits: &Limits) -> Result<usize, Status> {
    let mut violations = Violations::new();
    let (messages, tools) = (request.messages.len(), request.tools.len());
    violations.require(messages > 0, "messages", || "is empty; must hold at least one message".to_owned());
    violations.require(messages <= limits.max_messages, "messages", || {
        format!("holds {messages} messages; must hold at most {}", limits.max_messages)
    });
    violations.require(tools <= limits.max_tools, "tools", || {
        format!("holds {tools} tools; must hold at most {}", limits.max_tools)
    });
    let longest = request.messages.iter().map(|message| message.content.len()).enumerate();
    let longest = longest.max_by_key(|(_, bytes)| *bytes).filter(|(_, bytes)| *bytes > limits.max_text_bytes);
    let total = request.messages.iter().map(message_bytes).sum::<usize>()
        + request.tools.iter().map(tool_bytes).sum::<usize>();
    if let Some((index, bytes)) = longest {
        require_at_most(&mut violations, &format!("messages[{index}].content"), bytes, limits.max_text_bytes);
    } else if total > limits.max_text_bytes {
        let rule =
            format!("hold {total} bytes of text with `tools`; must be at most {}", limits.max_text_bytes);
        violations.push("messages", rule);
    }
    violations.into_result().map(|()| total)
}

/// A conversation whose sizes are allowed.
pub(super) fn conversation(request: EncodeChatRequest) -> Result<Conversation, Status> {
    let mut problems = Violations::new();
    let add_generation_prompt = request.add_generation_prompt.unwrap_or(true);
    let messages = collect(request.messages, "messages", &mut problems, message);
    let tools = collect(request.tools, "tools", &mut problems, tool);
    problems.into_result()?;
    Ok(Conversation { messages, tools, add_generation_prompt })
}

/// Turns each item into its domain type, telling it its path: `messages[2]`.
fn collect<W, T>(
    items: Vec<W>,
    field: &str,
    problems: &mut Violations,
    convert: impl Fn(W, &str, &mut Violations) -> T,
) -> Vec<T> {
    let with_path = items.into_iter().enumerate().map(|(index, item)| (item, format!("{field}[{index}]")));
    with_path.map(|(item, path)| convert(item, &path, problems)).collect()
}

fn message(wire: ChatMessage, path: &str, problems: &mut Violations) -> Message {
    let role = role(wire.role, path, problems);
    problems.require(
        wire.tool_calls.is_empty() || role == Role::Assistant,
        &format!("{path}.tool_calls"),
        || {
            format!(
                "are {} calls of {}; only ROLE_ASSISTANT makes calls",
                wire.tool_calls.len(),
                role.as_str()
            )
        },
    );
    problems.require(
        wire.tool_call_id.is_none() || role == Role::Tool,
        &format!("{path}.tool_call_id"),
        || format!("is set for {}; only ROLE_TOOL answers a call", role.as_str()),
    );
    Message {
        role,
        content: wire.content,
        name: wire.name,
        tool_calls: collect(wire.tool_calls, &format!("{path}.tool_calls"), problems, tool_call),
        tool_call_id: wire.tool_call_id,
    }
}

/// A role that is none stands as the user's, in a request that is refused.
fn role(role: i32, path: &str, problems: &mut Violations) -> Role {
    let rule = "must be ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL";
    match wire::Role::try_from(role) {
        Ok(wire::Role::System) => return Role::System,
        Ok(wire::Role::User) => return Role::User,
        Ok(wire::Role::Assistant) => return Role::Assistant,
        Ok(wire::Role::Tool) => return Role::Tool,
        Ok(wire::Role::Unspecified) => problems.push(format!("{path}.role"), format!("is not set; {rule}")),
        Err(_) => problems.push(format!("{path}.role"), format!("is {role}; {rule}")),
    }
    Role::User
}

fn tool_call(wire: wire::ToolCall, path: &str, problems: &mut Violations) -> ToolCall {
    require_name(&wire.name, path, problems);
    let arguments = object(&wire.arguments_json, &format!("{path}.arguments_json"), problems);
    ToolCall { id: wire.id, name: wire.name, arguments }
}

fn tool(wire: wire::Tool, path: &str, problems: &mut Violations) -> Tool {
    require_name(&wire.name, path, problems);
    let parameters =
        object(&wire.parameters_json_schema, &format!("{path}.parameters_json_schema"), problems);
    Tool { name: wire.name, description: wire.description, parameters }
}

fn require_name(name: &str, path: &str, problems: &mut Violations) {
    problems.require(!name.is_empty(), &format!("{path}.name"), || "is empty; must name the tool".to_owned());
}

/// The JSON object in a text. The parser's own words tell where it stumbles and quote nothing.
fn object(text: &str, field: &str, problems: &mut Violations) -> Map<String, Value> {
    let found = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => return object,
        Ok(Value::Array(_)) => "is a list".to_owned(),
        Ok(_) => "is a single value".to_owned(),
        Err(_) if text.is_empty() => "is empty".to_owned(),
        Err(error) => format!("is not JSON: {error}"),
    };
    problems.push(field, format!("{found}; must be a JSON object"));
    Map::new()
}

fn message_bytes(message: &ChatMessage) -> usize {
    let calls =
        message.tool_calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments_json.len());
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    message.content.len() + optional(&message.name) + optional(&message.tool_call_id) + calls.sum::<usize>()
}

fn tool_bytes(tool: &wire::Tool) -> usize {
    tool.name.len() + tool.description.len() + tool.parameters_json_schema.len()
}

fn require_at_most(violations: &mut Violations, field: &str, bytes: usize, limit: usize) {
    violations.require(bytes <= limit, field, || format!("is {bytes} bytes long; must be at most {limit}"));
}
