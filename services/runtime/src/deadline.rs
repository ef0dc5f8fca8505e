//! One instant that every hop of a request spends from.

use std::time::Duration;
use tokio::time::Instant;

/// When the caller stops waiting. In the extensions of every incoming request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// This long from now.
    pub fn after(time: Duration) -> Self { Self(Instant::now() + time) }
    /// The instant itself.
    pub fn instant(self) -> Instant { self.0 }
    /// What is left to spend, or `None` when the caller has already given up.
    pub fn remaining(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
    /// The deadline of an incoming request. Every request that came through a server of ours has one.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> { request.extensions().get().copied() }
    /// Makes an outgoing request spend from this deadline.
    pub fn spend<T>(self, request: &mut tonic::Request<T>) { request.extensions_mut().insert(self); }
}
