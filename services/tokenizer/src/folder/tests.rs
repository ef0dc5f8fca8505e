use std::fs;

use tempfile::TempDir;

use super::{Folder, TemplateSource};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> (TempDir, Folder) {
    let temp = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = temp.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let folder = Folder::open(temp.path()).unwrap();
    (temp, folder)
}

/// An error's sentence, without the folder's own path.
fn sentence<T: std::fmt::Debug>(temp: &TempDir, result: Result<T, crate::LoadError>) -> String {
    result.unwrap_err().to_string().replace(&format!("{}/", temp.path().display()), "")
}

fn names_and_sources(templates: Vec<TemplateSource>) -> Vec<(String, String)> {
    templates.into_iter().map(|template| (template.name, template.source)).collect()
}

fn pair(name: &str, source: &str) -> (String, String) {
    (name.to_owned(), source.to_owned())
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = Folder::open("no/such/folder".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("no/such/folder is not a folder"), "{error}");
}

#[test]
fn a_missing_tokenizer_says_what_was_expected() {
    let (temp, folder) = folder(&[]);
    let expected = "tokenizer.json is missing; expected the tokenizer in the `tokenizers` library's format";
    assert_eq!(sentence(&temp, folder.tokenizer_json()), expected);
}

#[test]
fn everything_but_the_tokenizer_may_be_missing() {
    let (_temp, folder) = folder(&[]);
    assert!(folder.named_tokens().unwrap().is_empty());
    assert!(folder.chat_templates().unwrap().is_empty());
    assert_eq!(folder.end_token_ids().unwrap(), None);
    assert_eq!(folder.model_vocabulary_size().unwrap(), None);
}

#[test]
fn tokens_are_texts_or_objects() {
    let config =
        r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null}"#;
    let (_temp, folder) = folder(&[("tokenizer_config.json", config)]);
    let tokens: Vec<_> = folder.named_tokens().unwrap().into_iter().collect();
    assert_eq!(tokens, [pair("bos_token", "<s>"), pair("eos_token", "</s>")]);
}

#[test]
fn a_token_of_another_kind_is_named() {
    let (temp, files) = folder(&[("tokenizer_config.json", r#"{"bos_token": 1}"#)]);
    let expected = "tokenizer_config.json: `bos_token` is 1; expected a text or an object with `content`";
    assert_eq!(sentence(&temp, files.named_tokens()), expected);
    let (temp, files) = folder(&[("tokenizer_config.json", r#"{"bos_token": {}}"#)]);
    let expected = "tokenizer_config.json: `bos_token.content` is missing; expected a text";
    assert_eq!(sentence(&temp, files.named_tokens()), expected);
}

#[test]
fn a_garbled_file_says_where() {
    let (temp, folder) = folder(&[("tokenizer_config.json", "{\n  \"a\": ")]);
    let error = sentence(&temp, folder.named_tokens());
    assert!(
        error.starts_with("tokenizer_config.json is not usable: EOF while parsing a value at line 2"),
        "{error}"
    );
    assert!(error.ends_with("expected a JSON object"), "{error}");
}

#[test]
fn templates_are_a_text_or_a_named_list() {
    let (_temp, files) = folder(&[("tokenizer_config.json", r#"{"chat_template": "a"}"#)]);
    assert_eq!(names_and_sources(files.chat_templates().unwrap()), [pair("default", "a")]);
    let list =
        r#"{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}"#;
    let (_temp, files) = folder(&[("tokenizer_config.json", list)]);
    assert_eq!(
        names_and_sources(files.chat_templates().unwrap()),
        [pair("default", "a"), pair("tool_use", "b")]
    );
}

#[test]
fn templates_in_files_replace_those_in_the_configuration() {
    let (_temp, folder) = folder(&[
        ("tokenizer_config.json", r#"{"chat_template": "old"}"#),
        ("chat_template.jinja", "a"),
        ("additional_chat_templates/tool_use.jinja", "b"),
        ("additional_chat_templates/README.md", "c"),
    ]);
    let templates = names_and_sources(folder.chat_templates().unwrap());
    assert_eq!(templates, [pair("default", "a"), pair("tool_use", "b")]);
}

#[test]
fn a_template_of_another_kind_is_named() {
    let (temp, files) = folder(&[("tokenizer_config.json", r#"{"chat_template": [{"name": "default"}]}"#)]);
    let expected = "tokenizer_config.json: `chat_template[0]` is an object; expected an object with the texts `name` \
                    and `template`";
    assert_eq!(sentence(&temp, files.chat_templates()), expected);
    let (temp, files) = folder(&[("tokenizer_config.json", r#"{"chat_template": true}"#)]);
    let expected =
        "tokenizer_config.json: `chat_template` is true; expected a text or a list of named templates";
    assert_eq!(sentence(&temp, files.chat_templates()), expected);
}

#[test]
fn end_ids_are_those_of_generation_then_those_of_the_model() {
    let model = ("config.json", r#"{"eos_token_id": 7, "vocab_size": 9}"#);
    let (_temp, files) = folder(&[model]);
    assert_eq!(files.end_token_ids().unwrap(), Some(vec![7]));
    assert_eq!(files.model_vocabulary_size().unwrap(), Some(9));
    let (_temp, files) = folder(&[model, ("generation_config.json", r#"{"eos_token_id": [1, 2]}"#)]);
    assert_eq!(files.end_token_ids().unwrap(), Some(vec![1, 2]));
    let (_temp, files) = folder(&[model, ("generation_config.json", r#"{"eos_token_id": null}"#)]);
    assert_eq!(files.end_token_ids().unwrap(), Some(vec![7]));
}

#[test]
fn an_end_id_of_another_kind_is_named() {
    for (value, found) in
        [("\"</s>\"", "a text"), ("-1", "-1"), ("[1, 2.5]", "a list"), ("4294967296", "4294967296")]
    {
        let (temp, files) = folder(&[("config.json", &format!("{{\"eos_token_id\": {value}}}"))]);
        let expected = format!("config.json: `eos_token_id` is {found}; expected an id or a list of ids");
        assert_eq!(sentence(&temp, files.end_token_ids()), expected);
    }
}
