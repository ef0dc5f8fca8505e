//! Tasks with a name, a span and an owner that waits for them.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use tokio::{
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The tasks of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    running: Arc<Running>,
}

/// Who is running, so that drain can name whom it waits for and stop who does not end.
#[derive(Debug, Default)]
struct Running {
    next: AtomicU64,
    tasks: Mutex<BTreeMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    /// `None` for the instant between a task's registration and its start.
    abort: Option<AbortHandle>,
}

impl Tasks {
    /// Runs a future as a task of this name, inside the current span. Drain waits for it.
    ///
    /// A task that runs as long as the process watches [`Drain`](crate::drain::Drain); what has not ended when drain
    /// does is aborted.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::debug_span!("task", name);
        // Where the log does not show tasks, the work is still the caller's.
        self.launch(name, future.instrument(if span.is_disabled() { tracing::Span::current() } else { span }))
    }

    /// Like [`spawn`](Self::spawn), for a task that serves many: it belongs to no span, and so keeps none open.
    pub(crate) fn spawn_root<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::debug_span!(parent: None, "task", name);
        self.launch(name, future.instrument(span))
    }

    fn launch<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let listed = Listed::new(&self.running, name);
        let id = listed.id;
        let task = self.tracker.spawn(async move {
            let _listed = listed;
            future.await
        });
        if let Some(entry) = self.running.lock().get_mut(&id) {
            entry.abort = Some(task.abort_handle());
        }
        task
    }

    /// Resolves when no task runs.
    pub(crate) async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }

    /// The names of the tasks that run, sorted, each once.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.running.lock().values().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Stops every task at its next await.
    pub(crate) fn abort_all(&self) {
        self.running.lock().values().filter_map(|entry| entry.abort.as_ref()).for_each(AbortHandle::abort);
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task's place in the list; dropping it, also by abort or panic, takes it off.
struct Listed {
    id: u64,
    running: Arc<Running>,
}

impl Listed {
    fn new(running: &Arc<Running>, name: &'static str) -> Self {
        let id = running.next.fetch_add(1, Ordering::Relaxed);
        running.lock().insert(id, Entry { name, abort: None });
        Self { id, running: Arc::clone(running) }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock().remove(&self.id);
    }
}

tokio::task_local! {
    /// When the call that this task runs is dropped, once it has said so.
    static LIMIT: Arc<OnceLock<Instant>>;
}

/// Has the call that runs in this task dropped at that instant, whatever it waits for then.
///
/// A response races its own deadline only where it is polled, and hyper does not poll it while its reader has no room:
/// a caller that stops reading would hold what its call holds for as long as it likes.
pub(crate) fn drop_call_at(instant: Instant) {
    // Outside a call there is nothing to drop; a second limit would be another layer's.
    let _ = LIMIT.try_with(|limit| limit.set(instant));
}

/// Resolves at the call's limit, if it says one.
async fn limit_passed(limit: &OnceLock<Instant>) {
    // Polled each time after the call, and so after it has said its limit.
    let instant = poll_fn(|_| limit.get().map_or(Poll::Pending, |instant| Poll::Ready(*instant))).await;
    sleep_until(instant).await;
}

/// Runs the calls of a connection as tasks of ours.
#[derive(Clone, Debug)]
pub(crate) struct CallExecutor(pub(crate) Tasks);

impl<F> hyper::rt::Executor<F> for CallExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, call: F) {
        let limit = Arc::new(OnceLock::new());
        let bounded = LIMIT.scope(Arc::clone(&limit), async move {
            tokio::select! {
                biased;
                _ = call => {}
                () = limit_passed(&limit) => {}
            }
        });
        self.0.spawn_root("call", bounded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_is_listed_until_it_ends() {
        let tasks = Tasks::default();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let task = tasks.spawn("waits", ended);
        assert_eq!(tasks.names(), ["waits"]);
        end.send(()).unwrap();
        task.await.unwrap().unwrap();
        tasks.idle().await;
        assert!(tasks.names().is_empty());
    }

    #[tokio::test]
    async fn aborted_tasks_are_gone_and_a_panic_leaves_nothing_behind() {
        let tasks = Tasks::default();
        let stuck = tasks.spawn("stuck", std::future::pending::<()>());
        let panics = tasks.spawn("panics", async { panic!("on purpose") });
        assert!(panics.await.unwrap_err().is_panic());
        tasks.abort_all();
        tasks.idle().await;
        assert!(stuck.await.unwrap_err().is_cancelled());
        assert!(tasks.names().is_empty());
    }
}
