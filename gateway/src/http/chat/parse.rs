//! A chat completion as it is asked for.

use serde_json::{Map, Value};
use tonic::Status;

use crate::{
    config::Limits,
    http::{
        json::{Fields, Rule},
        options::{self, Delivery, RULES},
    },
    request::{
        Ask, Constraint, Conversation, Faults, Form, Message, Prompt, Role, Tool, ToolCall,
        tool_choice::{self, ToolChoice},
    },
};

/// Fields that are not read, and what is done about them, beside those of [`RULES`].
const CHAT_RULES: [(&str, Rule); 14] = [
    ("safety_identifier", Rule::Harmless),
    ("prompt_cache_key", Rule::Harmless),
    ("prompt_cache_retention", Rule::Harmless),
    ("modalities", Rule::Only(&["[\"text\"]"])),
    ("verbosity", Rule::Only(&["\"medium\""])),
    ("reasoning_effort", Rule::Only(&["\"none\""])),
    ("audio", Rule::Unserved("there is text only")),
    ("prediction", Rule::Unserved("say what the answer must look like with `response_format`")),
    ("web_search_options", Rule::Unserved("the model reads what it is given")),
    ("functions", Rule::Unserved("use `tools`")),
    ("function_call", Rule::Unserved("use `tool_choice`")),
    ("suffix", Rule::Unserved("a chat has none")),
    ("echo", Rule::Unserved("a chat has none")),
    ("best_of", Rule::Unserved("use `n`")),
];

/// What the answer is read for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Calls {
    /// Text, and nothing else.
    #[default]
    None,
    /// Text, and calls where the model marks them.
    Marked,
    /// One call, as the whole answer.
    Forced,
}

/// A chat completion that can be made.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) delivery: Delivery,
    pub(super) calls: Calls,
}

/// Reads a request.
pub(super) fn read(body: Map<String, Value>, limits: &Limits) -> Result<Asked, Status> {
    let mut faults = Faults::default();
    let mut fields = Fields::new(body, &mut faults);
    let model: String = fields.need("model");
    let messages = fields.each("messages", |message| Some(read_message(message)));
    let delivery = options::delivery(&mut fields);
    max_tokens(&mut fields);
    let mut options = options::options(&mut fields);
    options.top_logprobs = logprobs(&mut fields);
    options.constraint = response_format(&mut fields);
    let (tools, calls) = offered(&mut fields, &mut options.constraint);
    let rules: Vec<_> = CHAT_RULES.into_iter().chain(RULES).collect();
    fields.finish(&rules);
    let prompt = Prompt::Chat(Conversation { messages, tools });
    let ask = Ask { model, prompt, options }.checked(faults, limits)?;
    Ok(Asked { ask, delivery, calls })
}

/// Its newer name, which goes before the older one.
fn max_tokens(fields: &mut Fields<'_>) {
    if let Some(most) = fields.take::<Value>("max_completion_tokens") {
        fields.put("max_tokens", most);
    }
}

fn logprobs(fields: &mut Fields<'_>) -> Option<u32> {
    let wanted = fields.take("logprobs").unwrap_or(false);
    let top = fields.take::<u32>("top_logprobs");
    if top.is_some() && !wanted {
        fields.wrong("top_logprobs", "is set; must not be unless `logprobs` is true");
    }
    wanted.then(|| top.unwrap_or(0))
}

/// Where the answer's form is asked for.
const RESPONSE_FORMAT: &str = "response_format";

fn response_format(fields: &mut Fields<'_>) -> Option<Constraint> {
    let form = fields.within(RESPONSE_FORMAT, |mut format| {
        let kind: String = format.need("type");
        let form = match kind.as_str() {
            "text" => None,
            "json_object" => Some(Form::JsonObject),
            "json_schema" => json_schema(&mut format),
            // Of our own contract.
            "regex" => Some(Form::Regex(format.need("regex"))),
            "lark_grammar" => Some(Form::Lark(format.need("lark_grammar"))),
            "choice" => Some(Form::Choice(format.take("choice").unwrap_or_default())),
            _ => {
                let kinds = "must be text, json_object, json_schema, regex, lark_grammar or choice";
                format.wrong("type", format!("is {kind:?}; {kinds}"));
                None
            }
        };
        format.finish(&[]);
        form
    })?;
    Some(Constraint { form: form?, field: RESPONSE_FORMAT })
}

fn json_schema(format: &mut Fields<'_>) -> Option<Form> {
    let schema = format.within("json_schema", |mut described| {
        let schema: Map<String, Value> = described.need("schema");
        // What can be enforced always is, and what cannot is refused: `strict` asks for no more, and gets no less.
        described.finish(&[
            ("name", Rule::Harmless),
            ("description", Rule::Harmless),
            ("strict", Rule::Harmless),
        ]);
        schema
    });
    if schema.is_none() {
        format.wrong("json_schema", "is missing; must be an object with a `schema`");
    }
    schema.map(|schema| Form::JsonSchema(Value::Object(schema).to_string()))
}

/// The tools that the model is offered, and what the answer is read for.
fn offered(fields: &mut Fields<'_>, constraint: &mut Option<Constraint>) -> (Vec<Tool>, Calls) {
    let choice = fields.take::<Value>("tool_choice");
    let (tools, strict): (Vec<Tool>, Vec<bool>) = fields.each("tools", read_tool).into_iter().unzip();
    let one_call = fields.take("parallel_tool_calls") == Some(false);
    let calls = match choice {
        None => Calls::Marked,
        Some(Value::String(word)) if word == "auto" => Calls::Marked,
        // The model is not shown what it may not use.
        Some(Value::String(word)) if word == "none" => return (Vec::new(), Calls::None),
        Some(choice) => {
            force(choice, &tools, fields, constraint);
            Calls::Forced
        }
    };
    if calls == Calls::Marked && tools.is_empty() {
        return (tools, Calls::None);
    }
    // Where it must call one, what it says is one call by the tool's schema anyway.
    if calls == Calls::Marked && (one_call || strict.contains(&true)) {
        allow(&tools, &strict, one_call, fields, constraint);
    }
    (tools, calls)
}

/// Lets the model call tools if it likes, but not otherwise than it should.
fn allow(
    tools: &[Tool],
    strict: &[bool],
    one_call: bool,
    fields: &mut Fields<'_>,
    constraint: &mut Option<Constraint>,
) {
    if constraint.is_some() {
        let rule = "is set; must not be beside tools that may be called and are `strict`, or one at most";
        fields.wrong(RESPONSE_FORMAT, rule);
        return;
    }
    *constraint = tool_choice::allowance(tools, strict, one_call, fields.faults());
}

fn force(choice: Value, tools: &[Tool], fields: &mut Fields<'_>, constraint: &mut Option<Constraint>) {
    let Some(choice) = tool_choice(choice, fields) else { return };
    if constraint.is_some() {
        fields.wrong("tool_choice", "makes the model call a tool; must not where `response_format` is set");
        return;
    }
    *constraint = tool_choice::constraint(&choice, tools, fields.faults());
}

fn tool_choice(choice: Value, fields: &mut Fields<'_>) -> Option<ToolChoice> {
    let kinds =
        "must be \"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}";
    match choice {
        Value::String(word) if word == "required" => Some(ToolChoice::Any),
        Value::Object(object) if object.get("type").is_some_and(|kind| kind == "function") => {
            fields.put("tool_choice", Value::Object(object));
            fields.within("tool_choice", |mut choice| {
                let _: Option<String> = choice.take("type");
                let name = choice.within("function", |mut function| {
                    let name = function.need("name");
                    function.finish(&[]);
                    name
                });
                choice.finish(&[]);
                ToolChoice::Named(name.unwrap_or_default())
            })
        }
        _ => {
            fields.wrong("tool_choice", kinds);
            None
        }
    }
}

/// A tool, and whether its arguments must keep to its schema.
fn read_tool(mut tool: Fields<'_>) -> Option<(Tool, bool)> {
    let kind: String = tool.need("type");
    if !kind.is_empty() && kind != "function" {
        tool.wrong("type", format!("is {kind:?}; must be \"function\""));
        return None;
    }
    let read = tool.within("function", |mut function| {
        let name = function.need("name");
        let description = function.take("description").unwrap_or_default();
        let parameters: Option<Map<String, Value>> = function.take("parameters");
        let strict = function.take("strict").unwrap_or(false);
        function.finish(&[]);
        let schema = Value::Object(parameters.unwrap_or_default());
        (Tool { name, description, parameters_json_schema: schema.to_string() }, strict)
    });
    if read.is_none() {
        tool.wrong("function", "is missing; must be an object with a `name`");
    }
    tool.finish(&[]);
    read
}

fn read_message(mut message: Fields<'_>) -> Message {
    let role = read_role(&mut message);
    let content = content(&mut message);
    let tool_calls = message.each("tool_calls", read_call);
    let read = Message {
        role,
        content,
        name: message.take("name"),
        tool_calls,
        tool_call_id: message.take("tool_call_id"),
    };
    // What an answer of ours brings when it is sent back as part of the conversation.
    message.finish(&[
        ("refusal", Rule::Only(&[])),
        ("annotations", Rule::Only(&["[]"])),
        ("audio", Rule::Unserved("there is text only")),
        ("function_call", Rule::Unserved("use `tool_calls`")),
    ]);
    read
}

fn read_role(message: &mut Fields<'_>) -> Role {
    let role: String = message.need("role");
    match role.as_str() {
        // What newer models call the system's text.
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        // It is missing, which was noted.
        "" => Role::System,
        _ => {
            let roles = "must be system, developer, user, assistant or tool";
            message.wrong("role", format!("is {role:?}; {roles}"));
            Role::System
        }
    }
}

/// A text, or parts that are texts: one under the other, since templates take one text.
fn content(message: &mut Fields<'_>) -> String {
    match message.take::<Value>("content") {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(parts @ Value::Array(_)) => {
            message.put("content", parts);
            message.each("content", part).join("\n")
        }
        Some(_) => {
            message.wrong("content", "must be a string or a list of parts");
            String::new()
        }
    }
}

/// A part that is text.
pub(in crate::http) fn part(mut part: Fields<'_>) -> Option<String> {
    let kind: String = part.need("type");
    if kind == "text" {
        let text = part.need("text");
        part.finish(&[]);
        return Some(text);
    }
    if !kind.is_empty() {
        part.wrong("type", format!("is {kind:?}; must be \"text\": the model reads nothing else"));
    }
    None
}

fn read_call(mut call: Fields<'_>) -> Option<ToolCall> {
    let id = call.need("id");
    let kind: String = call.take("type").unwrap_or_else(|| "function".to_owned());
    if kind != "function" {
        call.wrong("type", format!("is {kind:?}; must be \"function\""));
    }
    let mut missing = false;
    let (name, arguments_json) = call
        .within("function", |mut function| {
            let read = (function.need("name"), function.need("arguments"));
            function.finish(&[]);
            read
        })
        .unwrap_or_else(|| {
            missing = true;
            Default::default()
        });
    if missing {
        call.wrong("function", "is missing; must be an object with `name` and `arguments`");
    }
    call.finish(&[("index", Rule::Harmless)]);
    Some(ToolCall { id, name, arguments_json })
}
