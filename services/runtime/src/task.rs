//! Tasks with a name, a span and an owner that waits for them.

use tokio::task::JoinHandle;

/// The tasks of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks { tracker: tokio_util::task::TaskTracker }

impl Tasks {
    /// Runs a future as a task of this name, inside the current span. Drain waits for it.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        use tracing::Instrument as _;
        let span = tracing::debug_span!("task", name);
        self.tracker.spawn(future.instrument(span))
    }
}
