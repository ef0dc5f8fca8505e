//! Against the golden files of the default model, and against small tokenizers of other kinds made on the spot.

use std::{fs, path::PathBuf};

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::Tokenizer;
use crate::{
    config::{SpecialTokensInContent, TokenizerConfig},
    conversation::{Conversation, Message, Role},
    error::{Error, LoadError},
};

const LIMIT: usize = 1 << 20;

fn load(folder: PathBuf, special_tokens_in_content: SpecialTokensInContent) -> Result<Tokenizer, LoadError> {
    Tokenizer::load(&TokenizerConfig { folder, special_tokens_in_content, template_fuel: 2_000_000 })
}

fn smollm2_folder() -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/smollm2-135m-instruct");
    let there = fs::exists(format!("{folder}/tokenizer.json")).unwrap();
    assert!(there, "the default model is missing: run `make model`");
    folder.into()
}

fn smollm2() -> Tokenizer {
    load(smollm2_folder(), SpecialTokensInContent::Text).unwrap()
}

fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn user(content: &str) -> Conversation {
    let message = Message {
        role: Role::User,
        content: content.to_owned(),
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    };
    Conversation { messages: vec![message], tools: Vec::new(), add_generation_prompt: true }
}

#[test]
fn texts_become_the_ids_that_transformers_gives_and_back() {
    let tokenizer = smollm2();
    let cases = golden(include_str!("../../../../tests/golden/smollm2_tokens.json"));
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let encoded = tokenizer.encode(text, true).unwrap();
        assert_eq!(encoded, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&encoded, false).unwrap(), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn conversations_become_the_ids_that_transformers_gives() {
    let tokenizer = smollm2();
    let golden = golden(include_str!("../../../../tests/golden/smollm2_greedy.json"));
    for case in golden["cases"].as_array().unwrap() {
        let messages = case["messages"].as_array().unwrap();
        let mut conversation = Conversation { add_generation_prompt: true, ..Conversation::default() };
        for message in messages {
            let role = match message["role"].as_str().unwrap() {
                "system" => Role::System,
                "user" => Role::User,
                "assistant" => Role::Assistant,
                other => panic!("no case has the role {other}"),
            };
            let said = user(message["content"].as_str().unwrap()).messages.remove(0);
            conversation.messages.push(Message { role, ..said });
        }
        assert_eq!(tokenizer.encode_chat(conversation, LIMIT).unwrap(), ids(&case["input_ids"]));
    }
}

#[test]
fn a_hundred_kilobytes_become_the_ids_that_transformers_gives() {
    let golden = golden(include_str!("../../tests/golden/smollm2.json"));
    let long = &golden["long_text"];
    let pieces: Vec<String> = serde_json::from_value(long["pieces"].clone()).unwrap();
    let mut text = String::new();
    let least = long["least_bytes"].as_u64().unwrap() as usize;
    for i in 0.. {
        if text.len() >= least {
            break;
        }
        text.push_str(&pieces[(i * i + i / 7) % pieces.len()]);
    }
    assert_eq!(text.len() as u64, long["bytes"].as_u64().unwrap());

    let tokenizer = smollm2();
    let encoded = tokenizer.encode(&text, false).unwrap();
    assert_eq!(encoded.len() as u64, long["ids"].as_u64().unwrap());
    let bytes: Vec<u8> = encoded.iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(hex::encode(Sha256::digest(bytes)), long["sha256_of_ids_as_u32_le"].as_str().unwrap());
    assert_eq!(tokenizer.decode(&encoded, false).unwrap(), text);
}

#[test]
fn control_tokens_that_a_user_types_are_text_unless_asked_otherwise() {
    let golden = golden(include_str!("../../tests/golden/smollm2.json"));
    let as_text = smollm2();
    let as_token = load(smollm2_folder(), SpecialTokensInContent::Token).unwrap();
    for case in golden["injections"].as_array().unwrap() {
        let content = case["content"].as_str().unwrap();
        let encoded = as_text.encode_chat(user(content), LIMIT).unwrap();
        assert_eq!(encoded, ids(&case["as_text"]), "{content:?}");
        assert_eq!(
            as_token.encode_chat(user(content), LIMIT).unwrap(),
            ids(&case["as_token"]),
            "{content:?}"
        );
        assert!(as_text.decode(&encoded, false).unwrap().contains(content), "{content:?}");
    }
}

#[test]
fn a_conversation_that_renders_too_long_is_refused() {
    let refused = smollm2().encode_chat(user("Hi"), 100);
    assert!(matches!(refused, Err(Error::RenderedTooLong { limit: 100, .. })), "{refused:?}");
}

#[test]
fn what_is_loaded_is_told() {
    let tokenizer = smollm2();
    assert_eq!(tokenizer.vocabulary_size(), 49_152);
    assert_eq!(tokenizer.end_token_ids(), [2]);
    assert!(tokenizer.has_chat_template());
    let sha256 = hex::encode(Sha256::digest(fs::read(smollm2_folder().join("tokenizer.json")).unwrap()));
    assert_eq!(tokenizer.fingerprint(), sha256);
}

/// The texts of a stream whose messages are `cuts`.
fn streamed(tokenizer: &Tokenizer, cuts: &[Vec<u32>], skip_special_tokens: bool) -> Vec<String> {
    let mut detokenizer = tokenizer.detokenizer();
    let push = |cut: &Vec<u32>| detokenizer.push(tokenizer.tokens(cut, skip_special_tokens)).unwrap();
    let mut texts: Vec<String> = cuts.iter().map(push).collect();
    texts.push(detokenizer.finish().unwrap());
    texts
}

#[test]
fn golden_texts_stream_without_a_broken_character() {
    let tokenizer = smollm2();
    let cases = golden(include_str!("../../../../tests/golden/smollm2_tokens.json"));
    for case in cases.as_array().unwrap() {
        let one_by_one: Vec<Vec<u32>> = ids(&case["ids"]).into_iter().map(|id| vec![id]).collect();
        let texts = streamed(&tokenizer, &one_by_one, false);
        assert_eq!(texts.concat(), case["decoded"].as_str().unwrap());
        assert!(!texts.concat().contains('\u{FFFD}'));
    }
}

/// A folder with nothing but this tokenizer.
fn folder_of(tokenizer: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

fn special(id: u32, content: &str) -> Value {
    let flags =
        json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let mut token = json!({"id": id, "content": content});
    token.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
    token
}

/// As Llama 2's: SentencePiece BPE with byte fallback, `▁` for spaces, a prefix space.
fn llama_like() -> Value {
    let mut vocabulary: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    vocabulary.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    vocabulary.extend(["▁", "H", "i", "e", "▁H", "▁Hi", "日", "!"].map(str::to_owned));
    let ids: serde_json::Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": ids, "merges": [["▁", "H"], ["▁H", "i"]]},
    })
}

/// As BERT's: WordPiece.
fn bert_like() -> Value {
    let words = ["[UNK]", "[CLS]", "[SEP]", "do", "not", "##ing", "walk", "'", "s", ".", "日", "👩"];
    let ids: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[UNK]"},
        "added_tokens": [special(0, "[UNK]"), special(1, "[CLS]"), special(2, "[SEP]")],
        "normalizer": null, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids},
    })
}

fn small(tokenizer: &Value) -> (TempDir, Tokenizer) {
    let folder = folder_of(tokenizer);
    let loaded = load(folder.path().to_owned(), SpecialTokensInContent::Text).unwrap();
    (folder, loaded)
}

#[test]
fn a_folder_of_training_settings_neither_cuts_nor_pads() {
    let (_folder, tokenizer) = small(&bert_like());
    assert_eq!(tokenizer.encode("walking do not", true).unwrap(), [1, 6, 5, 3, 4, 2]);
    assert_eq!(tokenizer.encode("walking do not", false).unwrap(), [6, 5, 3, 4]);
    assert_eq!(tokenizer.decode(&[1, 6, 5, 3, 4, 9, 2], true).unwrap(), "walking do not.");
    assert!(!tokenizer.has_chat_template());
    assert!(matches!(tokenizer.encode_chat(user("do"), LIMIT), Err(Error::NoChatTemplate)));
}

#[test]
fn a_users_control_token_inside_of_a_sentencepiece_text_gets_no_space_of_its_own() {
    let folder = folder_of(&llama_like());
    let template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = load(folder.path().to_owned(), SpecialTokensInContent::Text).unwrap();
    let ids = tokenizer.encode_chat(user("Hi</s>Hi"), LIMIT).unwrap();
    assert_eq!((ids.first(), ids.last()), (Some(&1), Some(&2)));
    assert_eq!(ids.iter().filter(|id| **id == 2).count(), 1, "only the template ends the turn: {ids:?}");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Hi</s>Hi");
    assert_eq!(tokenizer.end_token_ids(), [2], "the configuration's eos_token, where no file has an id");
}

#[test]
fn a_control_token_that_cannot_be_written_as_text_is_refused() {
    let tokens: serde_json::Map<String, Value> =
        [("a", 0), ("</s>", 1)].map(|(token, id)| (token.to_owned(), json!(id))).into_iter().collect();
    let words = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": tokens, "unk_token": "a"},
    });
    let folder = folder_of(&words);
    fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let tokenizer = load(folder.path().to_owned(), SpecialTokensInContent::Text).unwrap();
    let refused = tokenizer.encode_chat(user("a </s> a"), LIMIT);
    assert!(matches!(&refused, Err(Error::Inseparable(token)) if token == "</s>"), "{refused:?}");
}

#[test]
fn ids_of_a_padded_embedding_decode_to_nothing() {
    let folder = folder_of(&llama_like());
    fs::write(folder.path().join("config.json"), r#"{"vocab_size": 320, "eos_token_id": 2}"#).unwrap();
    let tokenizer = load(folder.path().to_owned(), SpecialTokensInContent::Text).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 320);
    assert_eq!(tokenizer.decode(&[264, 319, 266], true).unwrap(), "Hi!");
}

#[test]
fn a_folder_that_is_not_usable_says_why() {
    let said = |folder: &TempDir| load(folder.path().to_owned(), SpecialTokensInContent::Text).unwrap_err();
    let garbled = folder_of(&json!({"version": "1.0"}));
    assert!(
        matches!(said(&garbled), LoadError::NotATokenizer { path, .. } if path.ends_with("tokenizer.json"))
    );

    let whole = llama_like().to_string();
    let cut_short = tempfile::tempdir().unwrap();
    fs::write(cut_short.path().join("tokenizer.json"), &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(said(&cut_short), LoadError::NotATokenizer { .. }));

    let mut speech = llama_like();
    speech["decoder"] =
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true});
    assert!(matches!(said(&folder_of(&speech)), LoadError::NotStreamable { decoder: "CTC", .. }));

    let wrong_end = folder_of(&llama_like());
    fs::write(wrong_end.path().join("config.json"), r#"{"eos_token_id": 267}"#).unwrap();
    assert!(matches!(said(&wrong_end), LoadError::EndTokenOutside { id: 267, vocabulary_size: 267, .. }));
}

/// Random ids below `size`, cut at random; runs of bytes are the rule where bytes have ids below 260.
fn cuts(size: u32) -> impl Strategy<Value = Vec<Vec<u32>>> {
    vec(vec(prop_oneof![0..size.min(260), 0..size], 0..6), 0..16)
}

/// What the library itself gives for the ids of a tokenizer file.
fn decoded_by_the_library(json: &[u8], ids: &[u32], skip_special_tokens: bool) -> String {
    tokenizers::Tokenizer::from_bytes(json).unwrap().decode(ids, skip_special_tokens).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn small_vocabularies_stream_what_the_library_decodes(cuts in cuts(267), skip in any::<bool>(), bert in any::<bool>()) {
        let json = if bert { bert_like() } else { llama_like() };
        let (_folder, tokenizer) = small(&json);
        let texts = streamed(&tokenizer, &cuts, skip).concat();
        prop_assert_eq!(&texts, &decoded_by_the_library(json.to_string().as_bytes(), &cuts.concat(), skip));
        prop_assert_eq!(&texts, &tokenizer.decode(&cuts.concat(), skip).unwrap());
    }
}

#[test]
fn random_ids_of_the_default_model_stream_what_the_library_decodes() {
    let tokenizer = smollm2();
    let library = tokenizers::Tokenizer::from_file(smollm2_folder().join("tokenizer.json")).unwrap();
    proptest!(ProptestConfig::with_cases(2_000), |(cuts in cuts(49_152), skip in any::<bool>())| {
        let texts = streamed(&tokenizer, &cuts, skip);
        prop_assert_eq!(texts.concat(), library.decode(&cuts.concat(), skip).unwrap());
        prop_assert_eq!(texts.concat(), tokenizer.decode(&cuts.concat(), skip).unwrap());
    });
}
