//! Ids to text, through the tokenizer.
//!
//! Each token is given its place in the text. The tokenizer holds back the end of the text while the next ids may still
//! complete it, and does not say how much. So a token's text begins no earlier than where the text ended before it, and
//! is whole when text comes that was asked for later: it waits for that, and travels with it.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};

use super::{
    Ended, Note, Placed, Step,
    duplex::{Duplex, Paired},
};
use crate::error::Error;

/// Turns batches of ids into text.
#[derive(Debug)]
pub(super) struct Detokenize<U> {
    pairs: Duplex<U, Vec<u32>, String>,
    /// Bytes of text so far.
    text_end: u64,
    /// Tokens whose text may not be whole yet.
    waiting: Vec<Placed>,
    generated: u32,
    ended: Option<Ended>,
}

impl<U> Detokenize<U> {
    pub(super) fn new(pairs: Duplex<U, Vec<u32>, String>) -> Self {
        Self { pairs, text_end: 0, waiting: Vec::new(), generated: 0, ended: None }
    }

    /// The tokens whose text may not be whole, now that the text ends at this byte.
    pub(super) fn unfinished(self, text_end: u64) -> impl Iterator<Item = Placed> {
        self.waiting.into_iter().map(move |placed| Placed { end: text_end, ..placed })
    }

    fn answer(&mut self, note: Note, text: String) -> Option<Step<String>> {
        self.generated = note.generated;
        let begin = self.text_end;
        let piece = self.text(text);
        self.wait(note.tokens, begin);
        piece
    }

    fn last(&mut self, text: Option<String>, mut ended: Ended) -> Step<String> {
        let piece = self.text(text.unwrap_or_default());
        // What is left has no text: it stands where the text ends.
        let tokens = mem::take(&mut ended.tokens);
        self.wait(tokens, self.text_end);
        ended.tokens = mem::take(&mut self.waiting);
        match piece {
            Some(piece) => {
                self.ended = Some(ended);
                piece
            }
            None => Step::End(ended),
        }
    }

    /// Tokens whose text begins no earlier than at this byte.
    fn wait(&mut self, tokens: Vec<Placed>, start: u64) {
        self.waiting.extend(tokens.into_iter().map(|placed| Placed { start, end: start, ..placed }));
    }

    fn text(&mut self, text: String) -> Option<Step<String>> {
        if text.is_empty() {
            return None;
        }
        self.text_end += text.len() as u64;
        let mut tokens = mem::take(&mut self.waiting);
        for placed in &mut tokens {
            placed.end = self.text_end;
        }
        Some(Step::Piece(text, Note { tokens, generated: self.generated, text_end: self.text_end }))
    }
}

impl<U> Stream for Detokenize<U>
where
    U: Stream<Item = Result<Step<Vec<u32>>, Error>> + Unpin,
{
    type Item = Result<Step<String>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(ended) = this.ended.take() {
            return Poll::Ready(Some(Ok(Step::End(ended))));
        }
        loop {
            let step = match ready!(this.pairs.poll_next_unpin(cx)) {
                Some(Ok(Paired::Answer(note, text))) => this.answer(note, text),
                Some(Ok(Paired::Last(text, ended))) => Some(this.last(text, ended)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            if let Some(step) = step {
                return Poll::Ready(Some(Ok(step)));
            }
        }
    }
}
