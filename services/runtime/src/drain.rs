//! How a process stops: Serving → Announcing → Draining → Stopping.
//!
//! ```text
//! Serving ── signal ──> Announcing ── announce ──> Draining ── empty | limit ──> Stopping ──> exit
//!           health: NOT_SERVING      listener closed,         cancel the rest with UNAVAILABLE,
//!           still accepting          health watches ended     log who remained, flush traces
//! ```

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::config::{FromConfig, Section, any};

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
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)) }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves once `phase` (or a later one) is reached.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Goes on to `phase`. There is no way back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }
}

/// `[drain]`: how long each phase may take. `terminationGracePeriodSeconds` must exceed their sum by a few seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// `announce`: how long balancers are given to look away before the listener closes.
    pub announce: Duration,
    /// `limit`: how long streams in flight may then take to finish.
    pub limit: Duration,
}

/// One round of a balancer's health checks.
const ANNOUNCE: Duration = Duration::from_secs(2);
/// Most answers of a chat end within it, and Kubernetes' default grace period of 30 s still covers the whole drain.
const LIMIT: Duration = Duration::from_secs(25);

impl Default for DrainConfig {
    fn default() -> Self {
        Self { announce: ANNOUNCE, limit: LIMIT }
    }
}

impl FromConfig for DrainConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            announce: section.value("announce", ANNOUNCE, any()),
            limit: section.value("limit", LIMIT, any()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_go_forward() {
        let drain = Drain::new();
        drain.enter(Phase::Draining);
        drain.enter(Phase::Announcing);
        assert_eq!(drain.phase(), Phase::Draining);
        drain.reached(Phase::Announcing).await;
        drain.reached(Phase::Draining).await;
    }
}
