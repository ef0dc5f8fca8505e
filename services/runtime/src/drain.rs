//! How a process stops: Serving → Announcing → Draining → Stopping.

/// Where in its life a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Taking calls (or still starting).
    Serving,
    /// Health says NOT_SERVING, calls are still taken: balancers need time to look away.
    Announcing,
    /// The listener is closed; streams in flight may finish.
    Draining,
    /// Whatever remains is cancelled with UNAVAILABLE.
    Stopping,
}

/// A view of the phase. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain { rx: tokio::sync::watch::Receiver<Phase> }

impl Drain {
    /// The phase now.
    pub fn phase(&self) -> Phase { *self.rx.borrow() }
    /// Resolves once `phase` (or a later one) is reached.
    pub async fn reached(&self, phase: Phase) { let _ = self.rx.clone().wait_for(|p| *p >= phase).await; }
}
