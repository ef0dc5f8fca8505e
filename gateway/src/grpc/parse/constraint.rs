//! What the answer must look like: as the caller says it, or as a tool that must be called does.

use serde_json::{Map, Value, json};
use weft_proto::{
    common::v1::{self as common, constraint::Form as WireForm},
    gateway::v1::{ToolChoice, tool_choice::Form as Choice},
};

use super::Faults;
use crate::request::{Constraint, Form, Tool};

/// Where the options have it.
const FIELD: &str = "options.constraint";
/// Where a tool that must be called makes one.
const TOOL_CHOICE: &str = "tool_choice";

/// Reads the constraint of the options.
pub(super) fn read(constraint: common::Constraint, faults: &mut Faults) -> Option<Constraint> {
    let form = match constraint.form {
        Some(WireForm::JsonSchema(text)) => Form::JsonSchema(text),
        Some(WireForm::Regex(text)) => Form::Regex(text),
        Some(WireForm::LarkGrammar(text)) => Form::Lark(text),
        Some(WireForm::Choice(choice)) => Form::Choice(choice.options),
        Some(WireForm::JsonObject(true)) => Form::JsonObject,
        Some(WireForm::JsonObject(false)) => {
            let rule = "is false; must be true, or another form be set";
            faults.wrong.push(format!("{FIELD}.json_object"), rule);
            return None;
        }
        None => {
            faults.wrong.push(FIELD, "has no form; must have exactly one");
            return None;
        }
    };
    Some(Constraint { form, field: FIELD })
}

/// Makes the constraint of a tool that must be called: one call, as JSON.
pub(super) fn of_tools(choice: ToolChoice, tools: &[Tool], faults: &mut Faults) -> Option<Constraint> {
    faults
        .require(!tools.is_empty(), TOOL_CHOICE, || "is set; must not be where `tools` is empty".to_owned());
    let chosen: Vec<(usize, &Tool)> = match choice.form {
        Some(Choice::Any(true)) => tools.iter().enumerate().collect(),
        Some(Choice::Any(false)) => {
            faults.wrong.push("tool_choice.any", "is false; must be true, or `name` be set");
            return None;
        }
        Some(Choice::Name(name)) => {
            let found = tools.iter().enumerate().find(|(_, tool)| tool.name == name);
            faults.require(found.is_some() || tools.is_empty(), "tool_choice.name", || {
                format!("is {name:?}; must be the name of one of `tools`")
            });
            found.into_iter().collect()
        }
        None => {
            faults.wrong.push(TOOL_CHOICE, "has no form; must have exactly one");
            return None;
        }
    };
    let schemas: Vec<(&str, Map<String, Value>)> = chosen
        .into_iter()
        .filter_map(|(index, tool)| Some((tool.name.as_str(), arguments(index, tool, faults)?)))
        .collect();
    let form = Form::JsonSchema(call_schema(schemas).to_string());
    Some(Constraint { form, field: TOOL_CHOICE })
}

/// The schema of a tool's arguments.
fn arguments(index: usize, tool: &Tool, faults: &mut Faults) -> Option<Map<String, Value>> {
    let field = format!("tools[{index}].parameters_json_schema");
    match serde_json::from_str(&tool.parameters_json_schema) {
        Ok(Value::Object(schema)) => Some(schema),
        Ok(_) => {
            faults.wrong.push(field, "is no JSON object; must be a schema where `tool_choice` is set");
            None
        }
        Err(error) => {
            faults.wrong.push(field, format!("is not JSON ({error}); must be where `tool_choice` is set"));
            None
        }
    }
}

/// The schema of a call of one of these tools.
fn call_schema(tools: Vec<(&str, Map<String, Value>)>) -> Value {
    let alone = tools.len() == 1;
    let mut calls: Vec<Value> = tools
        .into_iter()
        .enumerate()
        .map(|(index, (name, mut arguments))| {
            let root = if alone { String::new() } else { format!("/anyOf/{index}") };
            move_root(&mut arguments, &format!("#{root}/properties/arguments"));
            json!({
                "type": "object",
                "properties": { "name": { "const": name }, "arguments": arguments },
                "required": ["name", "arguments"],
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

    fn schema_of(choice: Choice, tools: &[Tool]) -> Value {
        let mut faults = Faults::default();
        let constraint = of_tools(ToolChoice { form: Some(choice) }, tools, &mut faults).unwrap();
        faults.into_result().unwrap();
        let Form::JsonSchema(text) = constraint.form else { panic!("no schema") };
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_named_tool_makes_the_schema_of_its_call() {
        let tools = [tool("a", "{\"type\":\"object\"}"), tool("b", "{\"type\":\"object\",\"$id\":\"x\"}")];
        let call = schema_of(Choice::Name("b".to_owned()), &tools);
        assert_eq!(call["properties"]["name"], json!({ "const": "b" }));
        assert_eq!(call["properties"]["arguments"], json!({ "type": "object" }));
    }

    #[test]
    fn references_of_a_tool_lead_into_its_own_schema() {
        let tree = r##"{"properties": {"left": {"$ref": "#"}, "$ref": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"enum": ["#"]}}}"##;
        let call = schema_of(Choice::Any(true), &[tool("a", "{}"), tool("b", tree)]);
        let arguments = &call["anyOf"][1]["properties"]["arguments"];
        assert_eq!(arguments["properties"]["left"]["$ref"], "#/anyOf/1/properties/arguments");
        assert_eq!(arguments["properties"]["$ref"]["$ref"], "#/anyOf/1/properties/arguments/$defs/a");
        assert_eq!(call.pointer("/anyOf/1/properties/arguments/$defs/a"), Some(&json!({ "enum": ["#"] })));
    }

    #[test]
    fn a_tool_that_is_not_there_and_a_schema_that_is_not_json_are_named() {
        let wrong = |choice, tools: &[Tool]| {
            let mut faults = Faults::default();
            of_tools(ToolChoice { form: choice }, tools, &mut faults);
            faults.into_result().unwrap_err().to_string()
        };
        let tools = [tool("a", "{"), tool("b", "3")];
        assert!(wrong(Some(Choice::Name("c".to_owned())), &tools).contains("`tool_choice.name` is \"c\""));
        let both = wrong(Some(Choice::Any(true)), &tools);
        assert!(both.contains("tools[0].parameters_json_schema` is not JSON"), "{both}");
        assert!(both.contains("tools[1].parameters_json_schema` is no JSON object"), "{both}");
        assert!(wrong(Some(Choice::Any(true)), &[]).contains("`tools` is empty"));
        assert!(wrong(None, &tools).contains("has no form"));
    }
}
