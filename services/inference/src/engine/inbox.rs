//! What the engine is told, in the order in which it was said.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::work::Work;
use crate::sequence::{Rank, Sequence};

/// What the engine can be told.
#[derive(Debug)]
pub(super) enum Command {
    /// Run this.
    Submit(Box<Sequence<Work>>),
    /// Nobody waits for this any more.
    Abort(Rank),
    /// Answer everybody, and end.
    Stop,
}

/// The sending end. Its length is bounded by the places that requests need, and one abort for each.
pub(super) type Sender = UnboundedSender<Command>;

/// The engine's end.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: UnboundedReceiver<Command>,
    first: Option<Command>,
    taken: u64,
}

impl Inbox {
    /// Both ends.
    pub(super) fn new() -> (Sender, Self) {
        let (sender, receiver) = unbounded_channel();
        (sender, Self { receiver, first: None, taken: 0 })
    }

    /// What is there, one at a time.
    pub(super) fn next(&mut self) -> Option<Command> {
        let command = self.first.take().or_else(|| self.receiver.try_recv().ok())?;
        self.taken += 1;
        Some(command)
    }

    /// Waits until something is there. Answers `false` once nothing can come any more.
    pub(super) async fn arrival(&mut self) -> bool {
        if self.first.is_none() {
            self.first = self.receiver.recv().await;
        }
        self.first.is_some()
    }

    /// How much was taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }
}
