//! A stage that is a call in both directions: what the stage before it makes goes out, and each answer is paired with
//! what it answers. Many pieces may be on their way at once, so that a round trip costs the first token its time and no
//! other token anything.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use super::{Ended, Note, Step};
use crate::{
    error::{Error, Failure},
    latency::Underway,
    outbound::{
        exchange::Exchange,
        memory::{Answer, Item},
    },
};

/// Pairs a stage with a call. `U` comes first, so that it is dropped before the call: inference hears first that nobody
/// listens any more.
#[derive(Debug)]
pub(super) struct Duplex<U, Q, A> {
    upstream: U,
    exchange: Exchange<Q, A>,
    underway: Underway,
    window: usize,
    /// What was sent and is not answered: what there is to say about it, and since when.
    sent: VecDeque<(Note, Instant)>,
    anything_sent: bool,
    ended: Option<Ended>,
    /// The last answer, kept until the call has said that it ended well.
    last: Option<A>,
    round_trip: Histogram,
}

/// An answer and what it answers.
#[derive(Debug)]
pub(super) enum Paired<A> {
    /// The answer to a piece.
    Answer(Note, A),
    /// What the service had still held back at the end; `None` if it was never sent anything.
    Last(Option<A>, Ended),
}

impl<U, Q, A> Duplex<U, Q, A>
where
    U: Stream<Item = Result<Step<Q>, Error>> + Unpin,
    Q: Item,
    A: Answer,
{
    /// Sends what `upstream` makes to a service, `window` pieces ahead of the answers.
    pub(super) fn new(
        upstream: U,
        exchange: (Underway, Exchange<Q, A>),
        window: usize,
        round_trip: Histogram,
    ) -> Self {
        let (underway, exchange) = exchange;
        let sent = VecDeque::new();
        Self {
            upstream,
            exchange,
            underway,
            window,
            sent,
            anything_sent: false,
            ended: None,
            last: None,
            round_trip,
        }
    }

    /// Sends on whatever the stage before has ready, as far as the window allows.
    fn push(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while self.ended.is_none() && self.sent.len() < self.window {
            match self.upstream.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(step)) => self.pass(step?),
                Poll::Ready(None) => return Err(self.broken("the stage before it ended without saying how")),
            }
        }
        Ok(())
    }

    fn pass(&mut self, step: Step<Q>) {
        match step {
            Step::Piece(piece, note) => {
                self.exchange.send(piece);
                self.underway.sent();
                self.sent.push_back((note, Instant::now()));
                self.anything_sent = true;
            }
            Step::End(ended) => {
                self.exchange.finish();
                if self.anything_sent {
                    self.underway.sent();
                }
                self.ended = Some(ended);
            }
        }
    }

    /// What there is to say after an answer; `None` while the call has yet to end.
    fn pair(&mut self, answer: Option<Result<A, Failure>>) -> Result<Option<Paired<A>>, Error> {
        let Some(answer) = answer.transpose()? else {
            return match (self.last.take(), self.ended.take()) {
                (Some(last), Some(ended)) => {
                    self.underway.answered();
                    Ok(Some(Paired::Last(Some(last), ended)))
                }
                _ => Err(self.broken("it ended its answers before they were complete")),
            };
        };
        if let Some((note, since)) = self.sent.pop_front() {
            self.underway.answered();
            self.round_trip.observe(since.elapsed().as_secs_f64());
            return Ok(Some(Paired::Answer(note, answer)));
        }
        if self.ended.is_none() || self.last.replace(answer).is_some() {
            return Err(self.broken("it answered what it was not asked"));
        }
        Ok(None)
    }

    fn broken(&self, what: &'static str) -> Error {
        Error::Broken { peer: self.underway.peer(), what }
    }
}

impl<U, Q, A> Stream for Duplex<U, Q, A>
where
    U: Stream<Item = Result<Step<Q>, Error>> + Unpin,
    Q: Item,
    A: Answer,
{
    type Item = Result<Paired<A>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.push(cx)?;
        if !this.anything_sent
            && let Some(ended) = this.ended.take()
        {
            return Poll::Ready(Some(Ok(Paired::Last(None, ended))));
        }
        loop {
            let answer = ready!(this.exchange.poll_answer(cx));
            if let Some(paired) = this.pair(answer)? {
                return Poll::Ready(Some(Ok(paired)));
            }
        }
    }
}

// Nothing in it is pinned structurally.
impl<U: Unpin, Q, A> Unpin for Duplex<U, Q, A> {}
