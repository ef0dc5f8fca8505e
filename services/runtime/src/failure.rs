//! How a service ends its own process: some things cannot be lived without, and whoever supervises starts anew.

use std::sync::Arc;

use tokio::sync::SetOnce;

/// Where a service says that it cannot go on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<SetOnce<String>>);

impl Failure {
    /// Has the process drain and end with an error. The first reason counts.
    ///
    /// Meant for what a new process mends: a thread that is gone, not a peer that is away.
    pub fn report(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.0.set(reason.clone()).is_ok() {
            tracing::error!(reason, "the process cannot go on and ends");
        }
    }

    /// Resolves once there is a reason.
    pub(crate) async fn reported(&self) -> String {
        self.0.wait().await.clone()
    }

    /// The reason, if there is one.
    pub fn reason(&self) -> Option<String> {
        self.0.get().cloned()
    }
}
