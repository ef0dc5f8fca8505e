//! The twins against the library's own decoders, over random tokens and random cuts.

use proptest::{collection::vec, prelude::*, sample::select};
use tokenizers::{Decoder as _, DecoderWrapper};

use super::{Decoder, NotStreamable};

const LLAMA: &str = r#"{"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;
const GEMMA: &str = r#"{"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}"#;
const BYTE_FALLBACK_THEN_METASPACE: &str = r#"{"type": "Sequence", "decoders": [
    {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]}"#;
const METASPACE_ALWAYS: &str =
    r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}"#;
const METASPACE_NEVER: &str =
    r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true}"#;
const WORD_PIECE: &str = r###"{"type": "WordPiece", "prefix": "##", "cleanup": true}"###;
const BPE: &str = r#"{"type": "BPEDecoder", "suffix": "</w>"}"#;
const BYTE_LEVEL: &str =
    r#"{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}"#;
const STRIPPED: &str = r#"{"type": "Sequence", "decoders": [
    {"type": "Strip", "content": "▁", "start": 1, "stop": 0}, {"type": "Fuse"},
    {"type": "Strip", "content": "x", "start": 2, "stop": 2}]}"#;
const ALL: [&str; 9] = [
    LLAMA,
    GEMMA,
    BYTE_FALLBACK_THEN_METASPACE,
    METASPACE_ALWAYS,
    METASPACE_NEVER,
    WORD_PIECE,
    BPE,
    BYTE_LEVEL,
    STRIPPED,
];

/// Tokens of every kind of vocabulary: words, spaces, parts, bytes of broken and whole characters, accents.
const TOKENS: [&str; 34] = [
    "▁", "▁Hello", "▁▁", "world", " ", "x", "xx", "##ing", "the", ".", "n't", "'", "do", "not", "low</w>",
    "er</w>", "</w>", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "<0x41>", "<0xF0>", "<0xzz>", "<0x+5>", "Ġthe",
    "Ġ", "â", "Ĥ", "¬", "ÿ", "日本", "e", "\u{301}",
];

fn library(json: &str) -> DecoderWrapper {
    serde_json::from_str(json).unwrap()
}

/// The texts that a stream gives for tokens in the given cuts, the last one at its end.
fn streamed(decoder: Option<&DecoderWrapper>, cuts: &[Vec<String>]) -> Vec<String> {
    let mut detokenizer = Decoder::new(decoder).unwrap().start();
    let mut texts: Vec<String> = cuts.iter().map(|cut| detokenizer.push(cut.clone()).unwrap()).collect();
    texts.push(detokenizer.finish().unwrap());
    texts
}

fn streamed_one_by_one(json: &str, tokens: &[&str]) -> Vec<String> {
    let cuts: Vec<Vec<String>> = tokens.iter().map(|token| vec![(*token).to_owned()]).collect();
    streamed(Some(&library(json)), &cuts)
}

/// Whether the library can decode these at all: two of its decoders panic on some inputs.
fn library_survives(json: &str, tokens: &[String]) -> bool {
    let fused: String = tokens.concat();
    match json {
        BPE => !tokens.is_empty(),
        STRIPPED => fused.chars().filter(|c| *c != 'x' && *c != '▁').count() > 4,
        _ => true,
    }
}

fn cuts() -> impl Strategy<Value = Vec<Vec<String>>> {
    vec(vec(select(TOKENS.to_vec()).prop_map(str::to_owned), 0..5), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_stream_in_any_cut_gives_what_the_library_gives_at_once(json in select(ALL.to_vec()), cuts in cuts()) {
        let tokens = cuts.concat();
        prop_assume!(library_survives(json, &tokens));
        let decoder = library(json);
        prop_assert_eq!(streamed(Some(&decoder), &cuts).concat(), decoder.decode(tokens).unwrap());
    }

    #[test]
    fn tokens_without_a_decoder_are_joined_by_spaces(cuts in cuts()) {
        prop_assert_eq!(streamed(None, &cuts).concat(), cuts.concat().join(" "));
    }
}

#[test]
fn text_arrives_with_its_token_but_for_the_last_character() {
    assert_eq!(streamed_one_by_one(BYTE_LEVEL, &["The", "Ġend", ".", "Ċ"]), ["Th", "e en", "d", ".\n", ""]);
    assert_eq!(streamed_one_by_one(LLAMA, &["▁The", "▁end", "."]), ["Th", "e en", "d", "."]);
}

#[test]
fn a_character_in_three_byte_tokens_arrives_whole() {
    let texts = streamed_one_by_one(BYTE_LEVEL, &["â", "Ĥ", "¬", "!"]);
    assert_eq!(texts, ["", "", "", "€", "!"]);
}

#[test]
fn bytes_that_never_become_a_character_do_not_hold_the_text_back() {
    let texts = streamed_one_by_one(BYTE_LEVEL, &["ÿ", "ÿ", "a", "b"]);
    assert_eq!(texts, ["", "\u{FFFD}", "\u{FFFD}", "a", "b"]);
}

#[test]
fn a_run_of_fallback_bytes_is_judged_as_a_whole() {
    let good = ["<0xE2>", "<0x82>", "<0xAC>"];
    assert_eq!(streamed_one_by_one(GEMMA, &good).concat(), "€");
    let with_a_wrong_last_byte = ["<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "a"];
    assert_eq!(
        streamed_one_by_one(GEMMA, &with_a_wrong_last_byte).concat(),
        "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}a"
    );
}

#[test]
fn an_empty_stream_is_an_empty_text() {
    for json in ALL {
        assert_eq!(streamed(Some(&library(json)), &[]), [""], "{json}");
    }
}

#[test]
fn a_decoder_that_needs_the_whole_text_is_refused_by_name() {
    let fused_then_replaced = r#"{"type": "Sequence", "decoders": [
        {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": "c"}]}"#;
    let refused = |json| {
        Decoder::new(Some(&library(json))).map(|_| ()).map_err(|NotStreamable { decoder, .. }| decoder)
    };
    assert_eq!(refused(fused_then_replaced), Err("Replace"));
    let speech = r#"{"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}"#;
    assert_eq!(refused(speech), Err("CTC"));
}
