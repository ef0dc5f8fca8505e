use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::ChatTemplates;
use crate::{
    error::{Error, LoadError},
    folder::TemplateSource,
};

fn source(name: &str, source: &str) -> TemplateSource {
    TemplateSource { path: "chat_template.jinja".into(), name: name.to_owned(), source: source.to_owned() }
}

fn compile(sources: Vec<TemplateSource>) -> Result<ChatTemplates, LoadError> {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")]
        .map(|(name, token)| (name.to_owned(), token.to_owned()));
    ChatTemplates::compile(sources, BTreeMap::from(tokens), 1_000_000)
        .map(|templates| templates.expect("there are some"))
}

fn variables(messages: &Value, tools: &Value) -> Map<String, Value> {
    let names =
        [("messages", messages.clone()), ("tools", tools.clone()), ("add_generation_prompt", json!(true))];
    names.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn render(template: &str) -> Result<String, Error> {
    let templates = compile(vec![source("default", template)]).unwrap();
    templates.render(variables(&json!([{"role": "user", "content": "Hi"}]), &Value::Null))
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let golden: Value = serde_json::from_str(include_str!("../../tests/golden/chat_templates.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let templates = compile(vec![source("default", case["template"].as_str().unwrap())]).unwrap();
        let rendered = templates.render(variables(&case["messages"], &case["tools"])).unwrap();
        assert_eq!(rendered, case["rendered"].as_str().unwrap(), "{}", case["name"]);
    }
}

#[test]
fn a_conversation_with_tools_takes_the_template_for_tools() {
    let templates = compile(vec![source("default", "plain"), source("tool_use", "tools")]).unwrap();
    assert_eq!(templates.render(variables(&json!([]), &Value::Null)).unwrap(), "plain");
    assert_eq!(templates.render(variables(&json!([]), &json!([{}]))).unwrap(), "tools");
    let templates = compile(vec![source("default", "plain"), source("rag", "rag")]).unwrap();
    assert_eq!(templates.render(variables(&json!([]), &json!([{}]))).unwrap(), "plain");
}

#[test]
fn what_a_template_raises_reaches_the_caller() {
    let nested = "{% macro check(m) %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ check(messages[0]) }}";
    for template in ["{{ raise_exception('roles must alternate') }}", nested] {
        let raised = render(template);
        assert!(
            matches!(&raised, Err(Error::Refused(message)) if message == "roles must alternate"),
            "{raised:?}"
        );
    }
}

#[test]
fn what_a_template_cannot_work_with_is_an_error_and_quotes_no_content() {
    let Err(Error::Unrenderable(error)) = render("{{ messages[0].content.unknown_method() }}") else {
        panic!()
    };
    assert!(!format!("{error:#}").contains("Hi"), "{error:#}");
}

#[test]
fn a_template_that_spins_runs_out_of_fuel() {
    let loops = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
    assert!(matches!(render(loops), Err(Error::OutOfFuel { fuel: 1_000_000 })));
    let doubling = "{% set ns = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}";
    assert!(matches!(render(doubling), Err(Error::OutOfFuel { .. })));
    let json = "{% set ns = namespace(l=messages) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}";
    assert!(matches!(render(json), Err(Error::OutOfFuel { .. })));
}

#[test]
fn a_template_that_does_not_compile_is_named_with_its_line() {
    let error = compile(vec![source("default", "a\n{% if %}")]).unwrap_err();
    let LoadError::Template { name, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!((name.as_str(), source.line()), ("default", Some(2)));
}

#[test]
fn templates_without_a_default_are_refused() {
    let error = compile(vec![source("rag", "a"), source("tool_use", "b")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "chat_template.jinja: no chat template is named `default`, only rag, tool_use"
    );
}

#[test]
fn the_date_is_todays() {
    let before = jiff::ZonedDateTime::now().strftime("%d %b %Y").to_string();
    let rendered = render("{{ strftime_now('%d %b %Y') }}").unwrap();
    let after = jiff::ZonedDateTime::now().strftime("%d %b %Y").to_string();
    assert!(rendered == before || rendered == after, "{rendered}");
    assert!(matches!(render("{{ strftime_now('%') }}"), Err(Error::Unrenderable(_))));
}
