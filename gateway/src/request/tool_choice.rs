//! A tool that must be called, and tools that may be but then as their schemas say: what the answer must look like.

use serde_json::{Map, Value, json};

use super::{Constraint, Faults, Form, Tool};

/// Before a call that a model makes of its own accord, and after it: what most models are trained to write.
pub(crate) const OPEN: &str = "<tool_call>";
pub(crate) const CLOSE: &str = "</tool_call>";

/// What may stand between the parts of a call: a model that likes white space must not go on with it for ever.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{0,16}";

/// What models call the arguments of a call; Llama's, whose whole answer is the call, say `parameters`.
const ARGUMENTS: &str = "arguments";
const PARAMETERS: &str = "parameters";

/// Where a request says it, in every API of ours.
const FIELD: &str = "tool_choice";

/// Which tool must be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// One of them.
    Any,
    /// The one of this name.
    Named(String),
}

/// Makes the constraint of a tool that must be called: one call, as JSON.
pub(crate) fn constraint(choice: &ToolChoice, tools: &[Tool], faults: &mut Faults) -> Option<Constraint> {
    faults.require(!tools.is_empty(), FIELD, || "is set; must not be where `tools` is empty".to_owned());
    let chosen: Vec<(usize, &Tool)> = match choice {
        ToolChoice::Any => tools.iter().enumerate().collect(),
        ToolChoice::Named(name) => {
            let found = tools.iter().enumerate().find(|(_, tool)| tool.name == *name);
            faults.require(found.is_some() || tools.is_empty(), "tool_choice.name", || {
                format!("is {name:?}; must be the name of one of `tools`")
            });
            found.into_iter().collect()
        }
    };
    let schemas: Vec<(&str, Map<String, Value>)> = chosen
        .into_iter()
        .filter_map(|(index, tool)| Some((tool.name.as_str(), arguments(index, tool, faults)?)))
        .collect();
    // Without one there is nothing to choose from, and the fault is noted.
    let form =
        (!schemas.is_empty()).then(|| Form::JsonSchema(call_schema(schemas, ARGUMENTS).to_string()))?;
    Some(Constraint { form, field: FIELD })
}

/// Makes the constraint of tools that may be called: text, and calls of these tools where the model marks them. `strict`
/// are those whose arguments must keep to their schemas; at most one call is made if it is to be `alone`.
pub(crate) fn allowance(
    tools: &[Tool],
    strict: &[bool],
    alone: bool,
    faults: &mut Faults,
) -> Option<Constraint> {
    let whatever = || Map::from_iter([("type".to_owned(), json!("object"))]);
    let mut schema_of = |index: usize, tool| match strict.get(index) {
        Some(true) => arguments(index, tool, faults),
        _ => Some(whatever()),
    };
    let schemas = tools.iter().enumerate().map(|(index, tool)| Some((&*tool.name, schema_of(index, tool)?)));
    let schemas: Vec<(&str, Map<String, Value>)> = schemas.collect::<Option<_>>()?;
    (!schemas.is_empty()).then(|| Constraint { form: Form::Lark(grammar(&schemas, alone)), field: "tools" })
}

/// Text and calls, in llguidance's dialect of Lark: `&` and `~` are said of regular expressions, and with a `suffix` the
/// shortest text that ends with it is meant. What begins as JSON does is a call, too: so Llama's models make them.
fn grammar(schemas: &[(&str, Map<String, Value>)], alone: bool) -> String {
    let part = |key| {
        let mut schema = call_schema(schemas.to_vec(), key);
        schema["x-guidance"] = json!({ "whitespace_pattern": WHITESPACE });
        schema
    };
    let (call, other) = (part(ARGUMENTS), part(PARAMETERS));
    let calls = if alone { "SPACE" } else { "(next call)* TEXT" };
    format!(
        r#"start: TEXT_ONLY | first call {calls} | SPACE (named | otherwise) SPACE
first[suffix="{OPEN}"]: BEGINNING
next[suffix="{OPEN}"]: /(?s:.*)/
call: SPACE named SPACE "{CLOSE}"
named: %json {call}
otherwise: %json {other}
BEGINNING: /\s*([^{{\s](?s:.*))?/
TEXT: /(?s:.*)/ & ~/(?s:.*){OPEN}(?s:.*)/
TEXT_ONLY: BEGINNING & TEXT
SPACE: /{WHITESPACE}/
"#
    )
}

/// The schema of a tool's arguments.
fn arguments(index: usize, tool: &Tool, faults: &mut Faults) -> Option<Map<String, Value>> {
    let field = format!("tools[{index}].parameters_json_schema");
    match serde_json::from_str(&tool.parameters_json_schema) {
        Ok(Value::Object(schema)) => Some(schema),
        Ok(_) => {
            faults.wrong.push(field, "is no JSON object; must be a schema where it is to be kept to");
            None
        }
        Err(error) => {
            faults.wrong.push(field, format!("is not JSON ({error}); must be where it is to be kept to"));
            None
        }
    }
}

/// The schema of a call of one of these tools, whose arguments are at `key`.
fn call_schema(tools: Vec<(&str, Map<String, Value>)>, key: &str) -> Value {
    let alone = tools.len() == 1;
    let mut calls: Vec<Value> = tools
        .into_iter()
        .enumerate()
        .map(|(index, (name, mut arguments))| {
            let root = if alone { String::new() } else { format!("/anyOf/{index}") };
            move_root(&mut arguments, &format!("#{root}/properties/{key}"));
            json!({
                "type": "object",
                "properties": { "name": { "const": name }, key: arguments },
                "required": ["name", key],
                "additionalProperties": false,
            })
        })
        .collect();
    if alone { calls.remove(0) } else { json!({ "anyOf": calls }) }
}

/// Makes a whole schema a part of another, at `place` (a JSON pointer): its references begin at its own root.
fn move_root(schema: &mut Map<String, Value>, place: &str) {
    schema.remove("$schema");
    schema.remove("$id");
    move_references(schema, place);
}

fn move_references(schema: &mut Map<String, Value>, place: &str) {
    for (key, value) in schema {
        match value {
            Value::String(reference) if key == "$ref" && reference.starts_with('#') => {
                reference.replace_range(..1, place);
            }
            // Data, not schemas.
            _ if ["const", "enum", "default", "examples"].contains(&key.as_str()) && !value.is_object() => {}
            Value::Object(part) => move_references(part, place),
            Value::Array(parts) => {
                parts
                    .iter_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(|part| move_references(part, place));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, schema: &str) -> Tool {
        Tool { name: name.to_owned(), description: String::new(), parameters_json_schema: schema.to_owned() }
    }

    fn schema_of(choice: &ToolChoice, tools: &[Tool]) -> Value {
        let mut faults = Faults::default();
        let constraint = constraint(choice, tools, &mut faults).unwrap();
        faults.into_result().unwrap();
        let Form::JsonSchema(text) = constraint.form else { panic!("no schema") };
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_named_tool_makes_the_schema_of_its_call() {
        let tools = [tool("a", "{\"type\":\"object\"}"), tool("b", "{\"type\":\"object\",\"$id\":\"x\"}")];
        let call = schema_of(&ToolChoice::Named("b".to_owned()), &tools);
        assert_eq!(call["properties"]["name"], json!({ "const": "b" }));
        assert_eq!(call["properties"]["arguments"], json!({ "type": "object" }));
    }

    #[test]
    fn references_of_a_tool_lead_into_its_own_schema() {
        let tree = r##"{"properties": {"left": {"$ref": "#"}, "$ref": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"enum": ["#"]}}}"##;
        let call = schema_of(&ToolChoice::Any, &[tool("a", "{}"), tool("b", tree)]);
        let arguments = &call["anyOf"][1]["properties"]["arguments"];
        assert_eq!(arguments["properties"]["left"]["$ref"], "#/anyOf/1/properties/arguments");
        assert_eq!(arguments["properties"]["$ref"]["$ref"], "#/anyOf/1/properties/arguments/$defs/a");
        assert_eq!(call.pointer("/anyOf/1/properties/arguments/$defs/a"), Some(&json!({ "enum": ["#"] })));
    }

    /// The tests of inference hold to this grammar what the model may say.
    #[test]
    fn tools_that_may_be_called_make_a_grammar_of_text_and_calls() {
        let city = r#"{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}"#;
        let tools = [tool("weather", city), tool("other", "{\"type\":\"string\"}")];
        let grammar = |alone| {
            let mut faults = Faults::default();
            let constraint = allowance(&tools, &[true, false], alone, &mut faults).unwrap();
            faults.into_result().unwrap();
            let Form::Lark(text) = constraint.form else { panic!("no grammar") };
            text
        };
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tool_calls.lark");
        assert_eq!(grammar(false), std::fs::read_to_string(golden).unwrap());
        assert!(grammar(true).starts_with("start: TEXT_ONLY | first call SPACE |"));
    }

    #[test]
    fn a_tool_that_is_not_there_and_a_schema_that_is_not_json_are_named() {
        let wrong = |choice: &ToolChoice, tools: &[Tool]| {
            let mut faults = Faults::default();
            constraint(choice, tools, &mut faults);
            faults.into_result().unwrap_err().to_string()
        };
        let tools = [tool("a", "{"), tool("b", "3")];
        let named = ToolChoice::Named("c".to_owned());
        assert!(wrong(&named, &tools).contains("`tool_choice.name` is \"c\""));
        let both = wrong(&ToolChoice::Any, &tools);
        assert!(both.contains("tools[0].parameters_json_schema` is not JSON"), "{both}");
        assert!(both.contains("tools[1].parameters_json_schema` is no JSON object"), "{both}");
        assert!(wrong(&ToolChoice::Any, &[]).contains("`tools` is empty"));
    }
}
