//! Stop strings: the answer ends before the first one that is complete, wherever the tokens' borders are.
//!
//! They act on the model's own text, before redaction. Text that may be the beginning of one is held back until it is
//! clear that it is none. Once one is met, everything behind this stage is dropped, and inference with it. The usage
//! counts the tokens up to the one that completed the stop string; that inference may have been a few tokens ahead
//! depends on chance and is nobody's to pay.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use prometheus_client::metrics::counter::Counter;

use super::{Ended, Note, Step, detokenize::Detokenize};
use crate::{
    answer::{FinishReason, Usage},
    error::Error,
    request::StopRules,
};

mod matcher;
use matcher::{Matcher, Pushed};

/// Ends an answer at a stop string.
#[derive(Debug)]
pub(super) struct Stop<U> {
    /// `None` once a stop string was met.
    upstream: Option<Detokenize<U>>,
    matcher: Matcher,
    /// Stop strings that are complete before this many tokens are text like any other.
    min_tokens: u32,
    prompt_tokens: u32,
    /// What there is to say about the text that is held back.
    note: Note,
    text_end: u64,
    ended: Option<Ended>,
    met: Counter,
}

impl<U> Stop<U> {
    pub(super) fn new(upstream: Detokenize<U>, rules: &StopRules, prompt_tokens: u32, met: Counter) -> Self {
        Self {
            upstream: Some(upstream),
            matcher: Matcher::new(&rules.strings),
            min_tokens: rules.min_tokens.unwrap_or_default(),
            prompt_tokens,
            note: Note::default(),
            text_end: 0,
            ended: None,
            met,
        }
    }

    fn piece(&mut self, text: String, note: Note) -> Option<Step<String>> {
        self.note.generated = note.generated;
        self.note.tokens.extend(note.tokens);
        match self.matcher.push(text, note.generated >= self.min_tokens) {
            Pushed::Text(text) => (!text.is_empty()).then(|| self.pass(text)),
            Pushed::Met { text, stop_string } => Some(self.meet(text, stop_string)),
        }
    }

    /// Ends the answer here, and drops whatever is behind this stage.
    fn meet(&mut self, text: String, stop_string: String) -> Step<String> {
        self.met.inc();
        let text_end = self.text_end + text.len() as u64;
        let upstream = self.upstream.take();
        let ended = Ended {
            reason: FinishReason::Stop,
            stop_string: Some(stop_string),
            usage: Usage { prompt: self.prompt_tokens, completion: self.note.generated, cached_prompt: 0 },
            tokens: upstream.into_iter().flat_map(|upstream| upstream.unfinished(text_end)).collect(),
        };
        self.last(text, ended)
    }

    fn end(&mut self, ended: Ended) -> Step<String> {
        let rest = self.matcher.finish();
        self.last(rest, ended)
    }

    fn last(&mut self, text: String, mut ended: Ended) -> Step<String> {
        if text.is_empty() {
            ended.tokens.splice(0..0, mem::take(&mut self.note.tokens));
            return Step::End(ended);
        }
        self.ended = Some(ended);
        self.pass(text)
    }

    fn pass(&mut self, text: String) -> Step<String> {
        self.text_end += text.len() as u64;
        let tokens = mem::take(&mut self.note.tokens);
        Step::Piece(text, Note { tokens, generated: self.note.generated, text_end: self.text_end })
    }
}

impl<U> Stream for Stop<U>
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
            let Some(upstream) = &mut this.upstream else { return Poll::Ready(None) };
            let step = match ready!(upstream.poll_next_unpin(cx)) {
                Some(Ok(Step::Piece(text, note))) => this.piece(text, note),
                Some(Ok(Step::End(ended))) => Some(this.end(ended)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            if let Some(step) = step {
                return Poll::Ready(Some(Ok(step)));
            }
        }
    }
}
