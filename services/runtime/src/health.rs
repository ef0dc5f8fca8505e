//! Whether this process should be sent work, and if not, why.
//!
//! Everything that readiness depends on is a [`Condition`], the runtime's own too: `start` fails until the service has
//! started and `drain` fails once it stops. `/readyz` lists them; gRPC health is their conjunction, for the empty name
//! and every service's alike, so nothing says SERVING before the work is really possible.

pub(crate) mod rpc;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// All conditions that must hold before the process serves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    conditions: Mutex<Vec<State>>,
    serving: watch::Sender<bool>,
}

/// How a condition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its name, such as `model`.
    pub name: &'static str,
    /// Why it does not hold, or `None` where it does.
    pub reason: Option<String>,
}

/// One of them. Its last word stands after it is dropped.
#[derive(Debug)]
pub struct Condition {
    index: usize,
    inner: Arc<Inner>,
}

impl Health {
    pub(crate) fn new() -> Self {
        let inner = Inner { conditions: Mutex::default(), serving: watch::Sender::new(false) };
        Self { inner: Arc::new(inner) }
    }

    /// Adds a condition that does not hold yet. The process serves while every condition holds.
    pub fn condition(&self, name: &'static str, reason: impl Into<String>) -> Condition {
        let mut conditions = self.inner.lock();
        conditions.push(State { name, reason: Some(reason.into()) });
        let index = conditions.len() - 1;
        self.inner.publish(&conditions);
        Condition { index, inner: Arc::clone(&self.inner) }
    }

    /// Resolves when every condition holds, the process's own (`start`, `drain`) included: not to be awaited in `start`.
    pub async fn serving(&self) {
        self.settles_at(true).await;
    }

    /// Resolves when some condition does not hold.
    pub async fn not_serving(&self) {
        self.settles_at(false).await;
    }

    /// Whether every condition holds.
    pub fn is_serving(&self) -> bool {
        *self.inner.serving.borrow()
    }

    /// Every condition as it stands now.
    pub fn conditions(&self) -> Vec<State> {
        self.inner.lock().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.inner.serving.subscribe()
    }

    async fn settles_at(&self, wanted: bool) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.watch().wait_for(|serving| *serving == wanted).await;
    }
}

impl Condition {
    /// It holds.
    pub fn holds(&self) {
        self.set(None);
    }

    /// It does not, for this reason (shown by `/readyz`).
    pub fn fails(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        let mut conditions = self.inner.lock();
        let state = &mut conditions[self.index];
        if state.reason.is_some() != reason.is_some() {
            match &reason {
                None => tracing::info!(condition = state.name, "condition holds"),
                Some(reason) => tracing::warn!(condition = state.name, reason, "condition fails"),
            }
        }
        state.reason = reason;
        self.inner.publish(&conditions);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called with the lock held, so that what is published is in order.
    fn publish(&self, conditions: &[State]) {
        let all = conditions.iter().all(|state| state.reason.is_none());
        self.serving.send_if_modified(|serving| std::mem::replace(serving, all) != all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_serves_while_every_condition_holds() {
        let health = Health::new();
        let (model, peer) = (health.condition("model", "loading"), health.condition("peer", "not asked yet"));
        model.holds();
        assert!(!health.is_serving());
        peer.holds();
        health.serving().await;
        peer.fails("connection refused");
        health.not_serving().await;
        let failing = State { name: "peer", reason: Some("connection refused".to_owned()) };
        assert_eq!(health.conditions(), [State { name: "model", reason: None }, failing]);
    }
}
