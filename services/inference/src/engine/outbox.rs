//! How a generation reaches its caller.
//!
//! The channel of a request holds all that the request can ever produce, so the engine never waits for a reader. It
//! grows as it fills: a fast reader's takes next to nothing.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{handle::Door, timeline::Timings};
use crate::{error::EngineError, sampler::Choice, sequence::Rank, stop::Ending};

/// Events beside tokens: the start and the end.
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
    },
    /// How likely the next tokens of the prompt were. The very first has nothing to be judged by.
    Prompt(Vec<Choice>),
    /// The next token.
    Token(Choice),
    /// The end. Nothing follows.
    Finished(Finished),
}

/// How a generation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub ending: Ending,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// The engine's end of a request's channel.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: Sender<Result<Event, EngineError>>,
}

impl Outbox {
    /// Hands an event out. Answers whether somebody still listens.
    pub(super) fn send(&self, event: Result<Event, EngineError>) -> bool {
        // Never full: see the top of this file.
        self.sender.try_send(event).is_ok()
    }
}

/// Both ends of a channel for a generation of at most `max_tokens` that tells of so many tokens of its prompt.
pub(super) fn channel_for(max_tokens: usize, told: usize) -> (Outbox, Receiver<Result<Event, EngineError>>) {
    let (sender, receiver) = channel(max_tokens + FRAME + told.div_ceil(PROMPT_PIECE));
    (Outbox { sender }, receiver)
}

/// A running generation: its events. Dropping it is cancelling it.
#[derive(Debug)]
pub struct Generation {
    pub(super) events: Receiver<Result<Event, EngineError>>,
    pub(super) ended: bool,
    pub(super) _abort: AbortOnDrop,
}

impl Stream for Generation {
    type Item = Result<Event, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.events.poll_recv(context));
        // A channel that closes without an end: the engine's thread is gone.
        let event = event.unwrap_or(Err(EngineError::Gone));
        self.ended = matches!(event, Ok(Event::Finished(_)) | Err(_));
        Poll::Ready(Some(event))
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
