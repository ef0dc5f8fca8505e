//! How a generation reaches its caller.
//!
//! The channel of a request holds all that the request can ever produce, so the engine never waits for a reader. It
//! grows as it fills: a fast reader's takes next to nothing. All continuations of a request speak into one channel.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    handle::Door,
    timeline::{Timings, Waited},
};
use crate::{error::EngineError, sampler::Choice, sequence::Rank, stop::Ending};

/// Events of a continuation beside tokens: the start and the end.
const FRAME: usize = 2;
/// The most tokens of the prompt in one event.
pub(super) const PROMPT_PIECE: usize = 256;

/// What a generation tells its caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is in the cache.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The seed in use.
        seed: u64,
        /// Tokens of the prompt that were in the cache already.
        cached_prompt_tokens: usize,
        /// What came before the first token.
        waited: Waited,
    },
    /// How likely the next tokens of the prompt were. The very first has nothing to be judged by.
    Prompt(Vec<Choice>),
    /// The next token.
    Token {
        /// Of which continuation.
        index: usize,
        /// The token.
        choice: Choice,
    },
    /// The end of a continuation.
    Finished(Finished),
}

/// How a generation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Which continuation.
    pub index: usize,
    /// Why.
    pub ending: Ending,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache already.
    pub cached_prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// A continuation's end of its request's channel.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Which continuation.
    pub(super) index: usize,
    sender: Sender<Result<Event, EngineError>>,
}

impl Outbox {
    /// Hands an event out. Answers whether somebody still listens.
    pub(super) fn send(&self, event: Result<Event, EngineError>) -> bool {
        // Never full: see the top of this file.
        self.sender.try_send(event).is_ok()
    }
}

/// Both ends of a channel for this many continuations of at most `max_tokens` each, that tells of so many tokens of the
/// prompt.
pub(super) fn channel_for(
    continuations: usize,
    max_tokens: usize,
    told: usize,
) -> (Vec<Outbox>, Receiver<Result<Event, EngineError>>) {
    let (sender, receiver) = channel(continuations * (max_tokens + FRAME) + told.div_ceil(PROMPT_PIECE));
    let outbox = |index| Outbox { index, sender: sender.clone() };
    ((0..continuations).map(outbox).collect(), receiver)
}

/// A running generation: the events of all its continuations. It starts once, and ends with its last continuation or
/// with the first error. Dropping it is cancelling it.
#[derive(Debug)]
pub struct Generation {
    events: Receiver<Result<Event, EngineError>>,
    started: bool,
    /// Continuations that have not ended.
    left: usize,
    aborts: Vec<AbortOnDrop>,
}

impl Generation {
    /// A generation of one continuation for each of `aborts`.
    pub(super) fn new(events: Receiver<Result<Event, EngineError>>, aborts: Vec<AbortOnDrop>) -> Self {
        Self { events, started: false, left: aborts.len(), aborts }
    }

    /// Whether nothing more will come.
    pub fn ended(&self) -> bool {
        self.left == 0
    }

    /// Whether the caller is told; the first of several starts is the generation's.
    fn concerns_caller(&mut self, event: &Result<Event, EngineError>) -> bool {
        match event {
            Ok(Event::Started { .. }) => !std::mem::replace(&mut self.started, true),
            Ok(Event::Prompt(_) | Event::Token { .. }) => true,
            Ok(Event::Finished(_)) => {
                self.left -= 1;
                true
            }
            Err(_) => {
                // Without one of its continuations the whole is not what was asked for.
                self.left = 0;
                self.aborts.clear();
                true
            }
        }
    }
}

impl Stream for Generation {
    type Item = Result<Event, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended() {
            let event = std::task::ready!(self.events.poll_recv(context));
            // A channel that closes without an end: the engine's thread is gone.
            let event = event.unwrap_or(Err(EngineError::Gone));
            if self.concerns_caller(&event) {
                return Poll::Ready(Some(event));
            }
        }
        Poll::Ready(None)
    }
}

/// Tells the engine that nobody waits any more. The engine ignores it where the request has ended.
#[derive(Debug)]
pub(super) struct AbortOnDrop {
    pub(super) rank: Rank,
    pub(super) door: std::sync::Arc<Door>,
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.door.abort(self.rank);
    }
}
