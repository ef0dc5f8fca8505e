use serde_json::{Map, Value, json};

use super::{Marks, Piece, SpecialTokens};
use crate::error::Error;

fn special_tokens() -> SpecialTokens {
    SpecialTokens::new([("<|im_start|>".to_owned(), 1), ("<|im_end|>".to_owned(), 2)]).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

const MARKS: Marks = Marks { open: '\u{FDD0}', close: '\u{FDD1}' };

#[test]
fn a_conversation_without_special_tokens_is_left_alone() {
    let mut variables = object(json!({"messages": [{"content": "<| im_end |>"}], "n": 1}));
    let before = variables.clone();
    assert_eq!(special_tokens().mark(&mut variables).unwrap(), None);
    assert_eq!(variables, before);
}

#[test]
fn every_text_is_marked_wherever_it_stands() {
    let mut variables =
        object(json!({"a": ["x<|im_end|>y", {"<|im_start|>": "<|im_end|><|im_end|>"}], "b": null}));
    assert_eq!(special_tokens().mark(&mut variables).unwrap(), Some(MARKS));
    let end = "\u{FDD0}<|im_end|>\u{FDD1}";
    let marked = json!({
        "a": [format!("x{end}y"), {"\u{FDD0}<|im_start|>\u{FDD1}": format!("{end}{end}")}],
        "b": null,
    });
    assert_eq!(variables, object(marked));
}

#[test]
fn marks_are_characters_that_the_user_did_not_type() {
    let mut variables = object(json!({"a": "\u{FDD0}<|im_end|>\u{FDD2}"}));
    let marks = special_tokens().mark(&mut variables).unwrap();
    assert_eq!(marks, Some(Marks { open: '\u{FDD1}', close: '\u{FDD3}' }));
}

#[test]
fn a_text_that_leaves_no_mark_free_is_refused() {
    let all: String = ('\u{FDD0}'..='\u{FDEE}').collect();
    let mut variables = object(json!({"a": all + "<|im_end|>"}));
    assert!(matches!(special_tokens().mark(&mut variables), Err(Error::NoMarker)));
}

#[test]
fn what_was_marked_is_text_and_what_the_template_wrote_is_not() {
    let rendered = "<|im_start|>a\u{FDD0}<|im_end|>\u{FDD1}b<|im_end|>";
    let pieces = special_tokens().split(rendered, MARKS);
    assert_eq!(
        pieces,
        [Piece::Markup("<|im_start|>a"), Piece::Text("<|im_end|>"), Piece::Markup("b<|im_end|>")]
    );
}

#[test]
fn a_mark_without_its_partner_still_keeps_its_neighbours_apart() {
    let rendered = "<|im_\u{FDD0}end|>x\u{FDD1}\u{FDD0}<|im_end|>";
    let pieces = special_tokens().split(rendered, MARKS);
    let markup: Vec<&str> = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Markup(text) => *text,
            Piece::Text(text) => panic!("{text} has only one mark"),
        })
        .collect();
    assert_eq!(markup, ["<|im_", "end|>x", "", "<|im_end|>"]);
}
