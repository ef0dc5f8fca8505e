//! Grammars over a small vocabulary: what they allow, what they refuse, what they cost.

use std::path::Path;

use rand::{SeedableRng as _, seq::IndexedRandom as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use weft_runtime::{Process, RuntimeConfig, config::parse};

use super::{vocabulary::VocabularyError, *};
use crate::{Config, sampler::Mask};

/// The only end token.
const END: u32 = 256;
/// A special token that ends nothing.
const SPECIAL: u32 = 257;
/// Tokens of several bytes.
const WORDS: [&str; 8] = ["\"name\"", "\": \"", "true", "false", "null", "{\"", "\"}", "123"];

/// The character that byte-level vocabularies write for each byte.
fn written(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    if plain(byte) {
        return byte.into();
    }
    let before = (0..byte).filter(|byte| !plain(*byte)).count();
    char::from_u32(0x100 + before as u32).unwrap()
}

fn text_of(ids: &[u32]) -> String {
    let bytes = ids.iter().filter(|id| **id < END || **id > SPECIAL).flat_map(|id| match id {
        0..END => vec![*id as u8],
        _ => WORDS[(*id - SPECIAL - 1) as usize].bytes().collect(),
    });
    String::from_utf8(bytes.collect()).unwrap()
}

/// A folder whose tokens are the 256 bytes, an end token, a special one and some words.
fn folder() -> (TempDir, Source) {
    let mut vocabulary = serde_json::Map::new();
    (0..=255u8).for_each(|byte| drop(vocabulary.insert(written(byte).to_string(), json!(byte))));
    for (index, word) in WORDS.iter().enumerate() {
        let name: String = word.bytes().map(written).collect();
        vocabulary.insert(name, json!(SPECIAL as usize + 1 + index));
    }
    let tokenizer = json!({
        "added_tokens": [
            { "id": END, "content": "<|end|>", "special": true },
            { "id": SPECIAL, "content": "<|tool|>", "special": true },
        ],
        "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), &tokenizer.to_string());
    (folder, source)
}

fn write(folder: &Path, tokenizer: &str) -> Source {
    std::fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
    Source {
        folder: folder.to_owned(),
        fingerprint: hex::encode(Sha256::digest(tokenizer)),
        // More logits than tokens, as models have them.
        vocabulary_size: 288,
        end_token_ids: vec![END],
    }
}

fn compiler(source: Source, toml: &str) -> Compiler {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let config: Config = parse(&format!("[model]\nfolder = \"m\"\n[constraint]\n{toml}"), &[]).unwrap();
    Compiler::start(source, config.constraint, 8, ConstraintMetrics::new(&context.metrics)).unwrap()
}

async fn grammar(form: Form) -> Result<Grammar, CompileError> {
    let (_folder, source) = folder();
    compiler(source, "").grammar(form).await
}

fn schema(schema: &Value) -> Form {
    Form::JsonSchema(schema.to_string())
}

fn ids(mask: &Mask) -> Vec<u32> {
    (0..320).filter(|id| mask.has(*id)).collect()
}

/// Any output that the grammar allows, as text, or nothing if it got longer than `most` tokens.
fn wander(grammar: &Grammar, seed: u64, most: usize) -> Option<String> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut guide, mut said) = (grammar.guide(), Vec::new());
    while said.len() < most {
        let allowed = ids(&guide.mask().unwrap());
        assert!(allowed.iter().all(|id| *id != SPECIAL && *id < 266), "{allowed:?}");
        let token = if allowed.contains(&END) { END } else { *allowed.choose(&mut random).unwrap() };
        said.push(token);
        if guide.accept(token).unwrap() == Progress::Complete {
            return Some(text_of(&said));
        }
    }
    None
}

#[tokio::test]
async fn whatever_a_schema_lets_through_a_validator_that_knows_nothing_of_it_finds_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/schemas.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(cases.len() >= 20);
    let (_folder, source) = folder();
    let compiler = compiler(source, "");
    for case in &cases {
        let validator = jsonschema::options().should_validate_formats(true).build(&case["schema"]).unwrap();
        let grammar = compiler.grammar(schema(&case["schema"])).await.unwrap();
        let outputs: Vec<String> = (0..40).filter_map(|seed| wander(&grammar, seed, 2_000)).collect();
        assert!(outputs.len() >= 10, "{}: only {} ended", case["name"], outputs.len());
        for output in outputs {
            let value = serde_json::from_str(&output).expect(&output);
            assert!(validator.is_valid(&value), "{}: {output}", case["name"]);
        }
    }
}

#[tokio::test]
async fn an_expression_a_grammar_and_a_choice_hold_for_the_whole_output() {
    let arithmetic = "start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]{1,3}/";
    let cases = [
        (Form::Regex("[a-c]{2,4}/x?".to_owned()), "^[a-c]{2,4}/x?$"),
        (Form::Regex("(é|\\n){3}".to_owned()), "^(é|\\n){3}$"),
        (Form::Lark(arithmetic.to_owned()), r"^[0-9]{1,3}(\+[0-9]{1,3})*$"),
        (
            Form::Choice(["a", "ab", "1+1=2?", "two\nlines", "q\"\\/"].map(str::to_owned).into()),
            "^(a|ab|1\\+1=2\\?|two\nlines|q\"\\\\/)$",
        ),
    ];
    for (form, expected) in cases {
        let expected = regex::Regex::new(expected).unwrap();
        let grammar = grammar(form.clone()).await.unwrap();
        let outputs: Vec<String> = (0..50).filter_map(|seed| wander(&grammar, seed, 200)).collect();
        assert!(outputs.len() > 25, "{form:?}");
        for output in outputs {
            assert!(expected.is_match(&output), "{form:?}: {output:?}");
        }
    }
}

/// Whether the grammar lets a text through, and lets it end there.
fn lets(grammar: &Grammar, text: &str) -> bool {
    let mut guide = grammar.guide();
    for byte in text.bytes() {
        if !guide.mask().unwrap().has(byte.into()) {
            return false;
        }
        if guide.accept(byte.into()).unwrap() == Progress::Complete {
            return text.ends_with(char::from(byte));
        }
    }
    guide.mask().unwrap().has(END)
}

/// The gateway's tests hold it to make this grammar: of the tool `weather`, which has a `city`, and of `other`.
#[tokio::test]
async fn tools_that_may_be_called_are_called_by_their_schemas() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tool_calls.lark");
    let grammar = grammar(Form::Lark(std::fs::read_to_string(golden).unwrap())).await.unwrap();
    let oslo = r#"<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>"#;
    let good = [
        "",
        "Let me see.\nIt is {cold}.",
        "What is a <tool_cal> or a </tool_call>?",
        oslo,
        &format!("Let me see. {oslo}\n{oslo} So."),
        "<tool_call>\n{\"name\": \"other\", \"arguments\": {\"a\": [1]}}\n</tool_call>",
        r#"{"name": "weather", "parameters": {"city": "Oslo"}}"#,
        r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#,
    ];
    for text in good {
        assert!(lets(&grammar, text), "{text}");
    }
    let bad = [
        "<tool_call>",
        "<tool_call>Oslo",
        r#"<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}"#,
        r#"<tool_call>{"name": "weather", "arguments": {}}</tool_call>"#,
        r#"Well. <tool_call>{"name": "weather", "arguments": {"city": 3}}</tool_call>"#,
        r#"<tool_call>{"name": "wether", "arguments": {"city": "Oslo"}}</tool_call>"#,
        r#"{"name": "weather", "parameters": {"town": "Oslo"}}"#,
        r#" {"weather": 1}"#,
    ];
    for text in bad {
        assert!(!lets(&grammar, text), "{text}");
    }
}

#[tokio::test]
async fn any_json_object_is_one() {
    let grammar = grammar(Form::JsonObject).await.unwrap();
    let outputs: Vec<String> = (0..60).filter_map(|seed| wander(&grammar, seed, 3_000)).collect();
    assert!(!outputs.is_empty());
    for output in outputs {
        // Not `Value`, for which a number may be too large.
        serde_json::from_str::<serde::de::IgnoredAny>(&output).unwrap();
        assert!(output.starts_with('{'), "{output}");
    }
}

#[tokio::test]
async fn an_end_token_is_allowed_where_the_output_is_complete_and_nowhere_else() {
    let grammar = grammar(Form::Regex("a+".to_owned())).await.unwrap();
    let mut guide = grammar.guide();
    assert_eq!(ids(&guide.mask().unwrap()), [97]);
    assert_eq!(guide.accept(97).unwrap(), Progress::Goes);
    assert_eq!(ids(&guide.mask().unwrap()), [97, END]);
    assert_eq!(guide.accept(END).unwrap(), Progress::Complete);
}

#[tokio::test]
async fn an_output_that_nothing_may_follow_is_complete_without_an_end_token() {
    let grammar = grammar(Form::Choice(vec!["true".to_owned()])).await.unwrap();
    let mut guide = grammar.guide();
    let word = SPECIAL + 3;
    assert_eq!(ids(&guide.mask().unwrap()), [u32::from(b't'), word]);
    assert_eq!(guide.accept(word).unwrap(), Progress::Complete);
}

#[tokio::test]
async fn two_sequences_of_one_grammar_do_not_see_each_other() {
    let grammar = grammar(Form::Choice(vec!["ax".to_owned(), "by".to_owned()])).await.unwrap();
    let (mut one, mut other) = (grammar.guide(), grammar.guide());
    one.mask().unwrap();
    one.accept(97).unwrap();
    other.mask().unwrap();
    other.accept(98).unwrap();
    assert_eq!(ids(&one.mask().unwrap()), [u32::from(b'x')]);
    assert_eq!(ids(&other.mask().unwrap()), [u32::from(b'y')]);
    assert_eq!(ids(&grammar.guide().mask().unwrap()), [97, 98]);
}

#[tokio::test]
async fn what_cannot_be_compiled_is_refused_with_a_reason() {
    let deep = "{\"anyOf\":[".repeat(100);
    let cases = [
        (Form::JsonSchema("{".to_owned()), "is not JSON"),
        (Form::JsonSchema("[]".to_owned()), "is no schema"),
        (Form::JsonSchema(deep), "is not JSON"),
        (schema(&json!({ "type": "strin" })), "is not usable"),
        (schema(&json!({ "$ref": "https://example.com/schema" })), "is not usable"),
        (schema(&json!({ "$ref": "#/$defs/missing" })), "is not usable"),
        (schema(&json!({ "type": "integer", "minimum": 3, "maximum": 2 })), ""),
        (schema(&json!({ "type": "array", "uniqueItems": true })), "is not usable"),
        (Form::JsonSchema("false".to_owned()), ""),
        (Form::Regex("(".to_owned()), "is not usable"),
        (Form::Regex("(?=a)b".to_owned()), "is not usable"),
        (Form::Regex("[^\\x00-\\x{10FFFF}]".to_owned()), ""),
        (Form::Lark("start: missing".to_owned()), "is not usable"),
        (Form::Lark("start: \"a".to_owned()), "is not usable"),
        (Form::Lark("begin: \"a\"".to_owned()), "is not usable"),
    ];
    for (form, reason) in cases {
        match grammar(form.clone()).await {
            Err(CompileError::Unusable(words)) => assert!(words.contains(reason), "{form:?}: {words}"),
            other => panic!("{form:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn texts_that_are_made_to_hurt_are_refused_or_compiled_but_never_more() {
    let many = |count: usize, part: &dyn Fn(usize) -> String| (0..count).map(part).collect::<String>();
    let rules = many(3_000, &|at| format!("r{at}: r{} \"x\"\n", at + 1));
    let properties: serde_json::Map<_, _> = (0..1_500)
        .map(|at| (format!("p{at}"), json!({ "type": "string", "pattern": "^(a|b)*c{0,9}$" })))
        .collect();
    let cases = [
        Form::Regex("(".repeat(60_000)),
        Form::Regex("((((a{1,99}){1,99}){1,99}){1,99}){1,99}".to_owned()),
        Form::Regex("(a|b)*a(a|b){200}".to_owned()),
        Form::Lark(format!("start: {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000))),
        Form::Lark(format!("start: {}\"a\"{}", "[".repeat(30_000), "]".repeat(30_000))),
        Form::Lark(format!("start: r0\n{rules}r3000: \"y\"")),
        Form::Lark("start: start \"a\" | start start | \"\"".to_owned()),
        Form::Choice((0..5_000).map(|at| format!("option {at}")).collect()),
        schema(&json!({ "type": "object", "properties": properties })),
        schema(
            &json!({ "type": "array", "items": { "enum": (0..4_000).collect::<Vec<_>>() }, "minItems": 5_000 }),
        ),
        schema(&json!({ "$ref": "#" })),
    ];
    let (_folder, source) = folder();
    let compiler = compiler(source, "compile_timeout = \"60s\"");
    for form in cases {
        match compiler.grammar(form.clone()).await {
            Ok(grammar) => {
                let mut guide = grammar.guide();
                let allowed = ids(&guide.mask().unwrap());
                let _ = guide.accept(allowed[0]);
            }
            Err(error) => assert!(matches!(error, CompileError::Unusable(_)), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_grammar_is_compiled_once_and_the_oldest_is_forgotten() {
    let (_folder, source) = folder();
    let compiler = compiler(source, "cache = 2");
    let form = |text: &str| Form::Regex(text.to_owned());
    for text in ["a", "b", "a", "c", "a", "b"] {
        compiler.grammar(form(text)).await.unwrap();
    }
    assert_eq!((compiler.count_of("compiled"), compiler.count_of("cached")), (4, 2));
    compiler.grammar(form("(")).await.unwrap_err();
    assert_eq!(compiler.count_of("refused"), 1);
}

#[tokio::test]
async fn a_folder_whose_tokens_cannot_be_told_says_why() {
    let (folder, source) = folder();
    let failure = |source: Source| async move {
        match compiler(source, "").grammar(Form::JsonObject).await.unwrap_err() {
            CompileError::Vocabulary(error) => error,
            other => panic!("{other:?}"),
        }
    };
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(failure(source).await, VocabularyError::Changed);
    for text in ["{}", "no json", "{\"decoder\": {\"type\": \"WordPiece\"}}"] {
        let error = failure(write(folder.path(), text)).await;
        assert!(matches!(error, VocabularyError::Unreadable(_)), "{error}");
    }
    let source = write(folder.path(), "{}");
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = failure(source).await;
    assert!(error.to_string().contains("no usable tokenizer.json"), "{error}");
}
