//! A chat as the tokenizer's own types, and as the JSON that a chat template sees.

use serde_json::{Map, Value, json};

/// A chat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The turns so far.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether the text ends with the header of the assistant's turn.
    pub add_generation_prompt: bool,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the model.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// As templates spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// The speaker's or the tool's name.
    pub name: Option<String>,
    /// Calls that the assistant made in this turn.
    pub tool_calls: Vec<ToolCall>,
    /// The call that this answers.
    pub tool_call_id: Option<String>,
}

/// A call that the assistant made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Ties the tool's answer to the call; may be empty.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The JSON schema of its arguments.
    pub parameters: Map<String, Value>,
}

impl Conversation {
    /// The variables `messages`, `tools` and `add_generation_prompt` of a chat template, in the shapes that
    /// transformers documents. What is not there is left out, except `tools`, which is then null.
    pub fn into_variables(self) -> Map<String, Value> {
        let messages = self.messages.into_iter().map(Message::into_json).collect();
        let tools: Vec<Value> = self.tools.into_iter().map(Tool::into_json).collect();
        let mut variables = Map::new();
        variables.insert("messages".to_owned(), Value::Array(messages));
        variables
            .insert("tools".to_owned(), if tools.is_empty() { Value::Null } else { Value::Array(tools) });
        variables.insert("add_generation_prompt".to_owned(), Value::Bool(self.add_generation_prompt));
        variables
    }
}

impl Message {
    fn into_json(self) -> Value {
        let mut message = json!({"role": self.role.as_str(), "content": self.content});
        if let Some(name) = self.name {
            message["name"] = name.into();
        }
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = self.tool_calls.into_iter().map(ToolCall::into_json).collect();
        }
        if let Some(id) = self.tool_call_id {
            message["tool_call_id"] = id.into();
        }
        message
    }
}

impl ToolCall {
    fn into_json(self) -> Value {
        let function = json!({"name": self.name, "arguments": self.arguments});
        if self.id.is_empty() {
            json!({"type": "function", "function": function})
        } else {
            json!({"id": self.id, "type": "function", "function": function})
        }
    }
}

impl Tool {
    fn into_json(self) -> Value {
        let Self { name, description, parameters } = self;
        json!({
            "type": "function",
            "function": {"name": name, "description": description, "parameters": parameters},
        })
    }
}
