//! What inference says: batches of ids, and which of them is the end token, whose text is never shown.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use prometheus_client::metrics::counter::Counter;
use tracing::Span;

use super::{Ended, Note, Placed, Step, record};
use crate::{
    answer::Token,
    error::{Error, Peer},
    latency::Progress,
    outbound::inference::Generated,
    request::Options,
};

/// Cuts a generation into batches of ids.
///
/// Only its end says whether the last token was an end token or a word like any other. So a token that could be one is
/// held back until inference has said more; no other token waits.
#[derive(Debug)]
pub(super) struct Generate<G> {
    generation: G,
    /// Ids that can end a generation.
    ends: Vec<u32>,
    /// Whether log-probabilities were asked for.
    tokens_wanted: bool,
    held: Vec<Token>,
    generated: u32,
    /// What inference said at the end and which end token it named, kept until the call has said that it ended well.
    ending: Option<(Ended, Option<u32>)>,
    /// The end, while a last batch goes before it.
    ended: Option<Ended>,
    watch: Watch,
}

/// Who is told of tokens.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) count: Counter,
    pub(super) span: Span,
    pub(super) progress: Progress,
}

impl<G> Generate<G> {
    /// Reads `generation`, counting its tokens and noting the first one in its span.
    pub(super) fn new(generation: G, options: &Options, end_ids: &[u32], watch: Watch) -> Self {
        Self {
            generation,
            ends: [end_ids, &options.stop.stop_token_ids].concat(),
            tokens_wanted: options.top_logprobs.is_some(),
            held: Vec::new(),
            generated: 0,
            ending: None,
            ended: None,
            watch,
        }
    }

    /// What can be said after these tokens; `None` while everything is held back.
    fn tokens(&mut self, tokens: Vec<Token>) -> Option<Step<Vec<u32>>> {
        if self.generated == 0 && !tokens.is_empty() {
            record::first_token(&self.watch.span);
            self.watch.progress.generated();
        }
        let count = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        self.generated = self.generated.saturating_add(count);
        self.watch.count.inc_by(count.into());
        let mut batch =
            if self.held.is_empty() { tokens } else { [mem::take(&mut self.held), tokens].concat() };
        if let Some(last) = batch.pop_if(|last| self.ends.contains(&last.id)) {
            self.held.push(last);
        }
        (!batch.is_empty()).then(|| self.batch(batch))
    }

    fn batch(&self, batch: Vec<Token>) -> Step<Vec<u32>> {
        let ids = batch.iter().map(|token| token.id).collect();
        // A token that is still held back is generated, but its text is not here.
        let generated = self.generated - u32::from(!self.held.is_empty());
        Step::Piece(ids, Note { tokens: self.wanted(batch), generated, text_end: 0 })
    }

    fn end(&mut self) -> Result<Step<Vec<u32>>, Error> {
        let Some((mut ended, stop_token)) = self.ending.take() else {
            return Err(Error::Broken {
                peer: Peer::Inference,
                what: "a generation ended without saying how",
            });
        };
        let held = mem::take(&mut self.held);
        if held.last().is_none_or(|token| Some(token.id) == stop_token) {
            ended.tokens = self.wanted(held);
            return Ok(Step::End(ended));
        }
        // It could have been an end token, and was a word.
        self.ended = Some(ended);
        Ok(self.batch(held))
    }

    /// Tokens as they travel on, if anyone wants them.
    fn wanted(&self, tokens: Vec<Token>) -> Vec<Placed> {
        if !self.tokens_wanted {
            return Vec::new();
        }
        tokens.into_iter().map(|token| Placed { token, start: 0, end: 0 }).collect()
    }
}

impl<G> Stream for Generate<G>
where
    G: Stream<Item = Result<Generated, Error>> + Unpin,
{
    type Item = Result<Step<Vec<u32>>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(ended) = this.ended.take() {
            return Poll::Ready(Some(Ok(Step::End(ended))));
        }
        loop {
            let step = match ready!(this.generation.poll_next_unpin(cx)) {
                Some(Ok(Generated::Tokens { tokens, .. })) => this.tokens(tokens),
                Some(Ok(Generated::End { reason, stop_token, usage, .. })) => {
                    let ended = Ended { reason, stop_string: None, usage, tokens: Vec::new() };
                    this.ending = Some((ended, stop_token));
                    None
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => Some(this.end()?),
            };
            if let Some(step) = step {
                return Poll::Ready(Some(Ok(step)));
            }
        }
    }
}
