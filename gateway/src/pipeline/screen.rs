//! The answer's text, through the safety filter: what comes out of here has been cleared by every detector.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};

use super::{
    Ended, Note, Step,
    duplex::{Duplex, Paired},
    ledger::Ledger,
    prompt::count,
};
use crate::{
    answer::{Event, Findings, FinishReason, Finished, Token, Usage},
    error::Error,
    metrics::Metrics,
    outbound::safety::Cleared,
};

/// Releases an answer's text, and ends the answer where the policy says so. The last stage: what it makes is what the
/// caller sees.
#[derive(Debug)]
pub(super) struct Screen<U> {
    /// `None` once the answer is over.
    pairs: Option<Duplex<U, String, Cleared>>,
    ledger: Ledger,
    findings: Findings,
    /// Bytes of text that went to the filter.
    text_end: u64,
    /// Which of the answers this is.
    index: u32,
    prompt_tokens: u32,
    finished: Option<Finished>,
    metrics: Arc<Metrics>,
}

impl<U> Screen<U> {
    /// `prompt` is what is charged to this answer of the prompt, and found in it.
    pub(super) fn new(
        pairs: Duplex<U, String, Cleared>,
        index: u32,
        prompt: (u32, Findings),
        metrics: Arc<Metrics>,
    ) -> Self {
        let (prompt_tokens, findings) = prompt;
        Self {
            pairs: Some(pairs),
            ledger: Ledger::default(),
            findings,
            text_end: 0,
            index,
            prompt_tokens,
            finished: None,
            metrics,
        }
    }

    fn answer(&mut self, note: Note, cleared: Cleared) -> Option<Event> {
        self.text_end = note.text_end;
        self.ledger.expect(note.tokens);
        let blocked = cleared.blocked;
        let released = self.found(cleared);
        let tokens = self.ledger.release(released.len());
        if blocked {
            self.block(note.generated);
        }
        self.delta(released, tokens)
    }

    fn last(&mut self, cleared: Option<Cleared>, mut ended: Ended) -> Option<Event> {
        let cleared = cleared.unwrap_or_default();
        let blocked = cleared.blocked;
        let released = self.found(cleared);
        self.ledger.expect(mem::take(&mut ended.tokens));
        if blocked {
            let tokens = self.ledger.release(released.len());
            self.block(ended.usage.completion);
            return self.delta(released, tokens);
        }
        if ended.stop_string.is_some() {
            self.ledger.cut(self.text_end);
        }
        let tokens = self.ledger.close();
        let findings = mem::take(&mut self.findings);
        let Ended { reason, stop_string, usage, .. } = ended;
        self.end(Finished {
            index: self.index,
            reason,
            stop_string,
            usage,
            findings,
            blocked_prompt: None,
            quota_reached: false,
        });
        self.delta(released, tokens)
    }

    /// Notes what the filter found; returns the text that it released.
    fn found(&mut self, cleared: Cleared) -> String {
        let mut new = Findings::new();
        count(&mut new, &cleared.findings);
        self.metrics.count_findings("completion", &new);
        count(&mut self.findings, &cleared.findings);
        cleared.findings.iter().for_each(|finding| self.ledger.find(finding));
        cleared.released
    }

    fn block(&mut self, generated: u32) {
        let usage = Usage { prompt: self.prompt_tokens, completion: generated, cached_prompt: 0 };
        let findings = mem::take(&mut self.findings);
        let (reason, blocked_prompt) = (FinishReason::ContentFilter, Some(false));
        self.end(Finished {
            index: self.index,
            reason,
            stop_string: None,
            usage,
            findings,
            blocked_prompt,
            quota_reached: false,
        });
    }

    /// A piece for the caller, unless there is nothing to say.
    fn delta(&self, text: String, tokens: Vec<Token>) -> Option<Event> {
        let index = self.index;
        (!text.is_empty() || !tokens.is_empty()).then_some(Event::Delta { index, text, tokens })
    }

    /// Whatever still runs behind this stage is dropped now, not when the caller has read the end.
    fn end(&mut self, finished: Finished) {
        self.pairs = None;
        self.finished = Some(finished);
    }
}

impl<U> Stream for Screen<U>
where
    U: Stream<Item = Result<Step<String>, Error>> + Unpin,
{
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some(pairs) = &mut this.pairs {
            let event = match ready!(pairs.poll_next_unpin(cx)) {
                Some(Ok(Paired::Answer(note, cleared))) => this.answer(note, cleared),
                Some(Ok(Paired::Last(cleared, ended))) => this.last(cleared, ended),
                Some(Err(error)) => {
                    this.pairs = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => return Poll::Ready(None),
            };
            if let Some(event) = event {
                return Poll::Ready(Some(Ok(event)));
            }
        }
        Poll::Ready(this.finished.take().map(|finished| Ok(Event::Finished(finished))))
    }
}
