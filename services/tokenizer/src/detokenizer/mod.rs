//! Ids to text as they come, ending with exactly the text that all at once would give.
//!
//! Each decoder of the `tokenizers` library works on all tokens at once. Its twin here (`stage`) takes one token at
//! a time and gives out what can no longer change, so a stream costs the same for its last token as for its first.
//! Behind them the `tail` holds back a character that the next token may still complete.
//!
//! # Why not decode a window again and compare
//! That is how most servers do it, and it is not exact: a byte-fallback run turns to U+FFFD as a whole when its last
//! byte is wrong, the first token of a window loses its space, and bytes that never become a character make the
//! window grow without end.

mod stage;
mod strip;
mod tail;
mod utf8;

use tokenizers::DecoderWrapper;

use self::{stage::Stage, tail::Tail};
use crate::error::Error;

/// A tokenizer's decoder, ready to be followed token by token.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// As they are before the first token.
    stages: Vec<Stage>,
}

/// A decoder that has no exact twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStreamable {
    /// Its name in `tokenizer.json`.
    pub decoder: &'static str,
    /// Why.
    pub reason: &'static str,
}

impl Decoder {
    /// The twin of a tokenizer's decoder; without one, tokens are joined by spaces.
    ///
    /// # Errors
    /// A decoder that has none.
    pub fn new(decoder: Option<&DecoderWrapper>) -> Result<Self, NotStreamable> {
        let stages = match decoder {
            None => vec![Stage::joining()],
            Some(decoder) => stage::twins(decoder)?,
        };
        Ok(Self { stages })
    }

    /// The bytes that a token stands for within a text: a part of a character, where it is one.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn spell(&self, token: String) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = self.stages.iter().find_map(|stage| stage.bytes_of(&token)) {
            return Ok(bytes);
        }
        // The first token of a text is treated differently, so another goes before it.
        const BEFORE: &str = "x";
        let mut text = self.start();
        let mut spelled = text.push([BEFORE.to_owned(), token])?;
        spelled.push_str(&text.finish()?);
        Ok(spelled.strip_prefix(BEFORE).unwrap_or(&spelled).as_bytes().to_vec())
    }

    /// Begins a text.
    pub fn start(&self) -> Detokenizer {
        Detokenizer { stages: self.stages.clone(), tail: Tail::default() }
    }
}

/// A text in the making.
#[derive(Debug)]
pub struct Detokenizer {
    stages: Vec<Stage>,
    tail: Tail,
}

impl Detokenizer {
    /// Takes the next tokens, as the vocabulary spells them, and gives the text that became final.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn push(&mut self, tokens: impl IntoIterator<Item = String>) -> Result<String, Error> {
        let mut text = String::new();
        for token in tokens {
            feed(&mut self.stages, token, &mut text)?;
        }
        Ok(self.tail.push(&text))
    }

    /// Ends the text and gives what was still held back.
    ///
    /// # Errors
    /// As [`Detokenizer::push`].
    pub fn finish(mut self) -> Result<String, Error> {
        let mut text = String::new();
        let mut stages = &mut self.stages[..];
        while let Some((stage, later)) = stages.split_first_mut() {
            for piece in stage.finish()? {
                feed(later, piece, &mut text)?;
            }
            stages = later;
        }
        Ok(self.tail.finish(&text))
    }
}

/// Sends a piece through the stages, each of which may give none, one or many for it.
fn feed(stages: &mut [Stage], piece: String, text: &mut String) -> Result<(), Error> {
    let Some((stage, later)) = stages.split_first_mut() else {
        text.push_str(&piece);
        return Ok(());
    };
    stage.push(piece)?.into_iter().try_for_each(|piece| feed(later, piece, text))
}

#[cfg(test)]
mod tests;
