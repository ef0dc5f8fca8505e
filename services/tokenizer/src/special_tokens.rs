//! What a user typed never becomes a control token.
//!
//! A chat template writes control tokens such as `<|im_end|>` as text, and the tokenizer turns that text into their
//! ids, whoever wrote it. So the special tokens that stand in a conversation are put between two marks before the
//! template runs; afterwards the marks tell the template's own control tokens from the user's text, and the latter is
//! encoded as plain text. transformers does the same with `sanitize_control_tokens=True`.
//!
//! # Why only special tokens
//! Other added tokens (`<think>`, `<tool_call>`) are ordinary vocabulary that Decode shows, so they stand in earlier
//! answers of the model, where they must become the same ids again.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use serde_json::{Map, Value};

use crate::error::Error;

/// A model's special tokens, ready to be searched for.
#[derive(Debug)]
pub struct SpecialTokens {
    search: AhoCorasick,
    ids: HashMap<String, u32>,
}

/// Two characters that stand nowhere in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    open: char,
    close: char,
}

/// A part of a rendered conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text in which special tokens are special.
    Markup(&'a str),
    /// A special token that is meant as text.
    Text(&'a str),
}

impl SpecialTokens {
    /// From each special token's text and id.
    ///
    /// # Errors
    /// If they are too many to be searched for.
    pub fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Result<Self, BuildError> {
        let ids: HashMap<String, u32> = tokens.into_iter().collect();
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(ids.keys())?;
        Ok(Self { search, ids })
    }

    /// The id of a special token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Puts marks around the special tokens in every text of a conversation; `None` where there are none.
    ///
    /// # Errors
    /// [`Error::NoMarker`] if no two characters are free to mark with.
    pub fn mark(&self, variables: &mut Map<String, Value>) -> Result<Option<Marks>, Error> {
        let mut found = false;
        for_each_text(variables, &mut |text| found |= self.search.is_match(text));
        if !found {
            return Ok(None);
        }
        let marks = Marks::free_in(variables).ok_or(Error::NoMarker)?;
        rewrite(variables, &|text| self.mark_text(text, marks));
        Ok(Some(marks))
    }

    /// Cuts a rendered conversation at its marks. A mark whose partner the template separated from it is dropped,
    /// and still keeps the texts on its two sides from joining into a token.
    pub fn split<'a>(&self, rendered: &'a str, marks: Marks) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let mut rest = rendered;
        while let Some(at) = rest.find([marks.open, marks.close]) {
            pieces.push(Piece::Markup(&rest[..at]));
            rest = &rest[at..];
            if let Some((token, after)) = self.marked_token(rest, marks) {
                pieces.push(Piece::Text(token));
                rest = after;
            } else {
                rest = rest.strip_prefix([marks.open, marks.close]).unwrap_or_default();
            }
        }
        pieces.push(Piece::Markup(rest));
        pieces
    }

    /// The token at the start of `text`, if both its marks are there, and what follows.
    fn marked_token<'a>(&self, text: &'a str, marks: Marks) -> Option<(&'a str, &'a str)> {
        let (token, after) = text.strip_prefix(marks.open)?.split_once(marks.close)?;
        self.ids.contains_key(token).then_some((token, after))
    }

    fn mark_text(&self, text: &str, marks: Marks) -> Option<String> {
        let mut marked = String::new();
        let mut done = 0;
        for token in self.search.find_iter(text) {
            marked.push_str(&text[done..token.start()]);
            marked.push(marks.open);
            marked.push_str(&text[token.range()]);
            marked.push(marks.close);
            done = token.end();
        }
        (done > 0).then(|| marked + &text[done..])
    }
}

impl Marks {
    /// Noncharacters, which Unicode sets aside for such use and which no text should hold; this one does not.
    fn free_in(variables: &Map<String, Value>) -> Option<Self> {
        let mut free: Vec<char> = ('\u{FDD0}'..='\u{FDEF}').collect();
        for_each_text(variables, &mut |text| free.retain(|mark| !text.contains(*mark)));
        match free[..] {
            [open, close, ..] => Some(Self { open, close }),
            _ => None,
        }
    }
}

fn for_each_text(object: &Map<String, Value>, visit: &mut impl FnMut(&str)) {
    for (key, value) in object {
        visit(key);
        for_each_text_in(value, visit);
    }
}

fn for_each_text_in(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| for_each_text_in(item, visit)),
        Value::Object(object) => for_each_text(object, visit),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces each text for which `with` has another. Keys too: a template may print a schema whole.
fn rewrite(object: &mut Map<String, Value>, with: &impl Fn(&str) -> Option<String>) {
    let rewritten = std::mem::take(object).into_iter().map(|(key, mut value)| {
        rewrite_in(&mut value, with);
        (with(&key).unwrap_or(key), value)
    });
    *object = rewritten.collect();
}

fn rewrite_in(value: &mut Value, with: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(other) = with(text) {
                *text = other;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite_in(item, with)),
        Value::Object(object) => rewrite(object, with),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
