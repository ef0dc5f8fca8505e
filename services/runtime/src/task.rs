//! Tasks with a name, a span and an owner that waits for them.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    static LIMIT: Limit;
}

/// Has the call that runs in this task dropped at that instant, whatever it waits for then.
///
/// A response races its own deadline only where it is polled, and hyper does not poll it while its reader has no room:
/// a caller that stops reading would hold what its call holds for as long as it likes.
pub(crate) fn drop_call_at(instant: Instant) {
    // Outside a call there is nothing to drop.
    let _ = LIMIT.try_with(|limit| limit.set(instant));
}

/// The instant at which the call that runs in a task is dropped, if there is one. Clones are the same limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limit(Arc<Mutex<Option<Instant>>>);

impl Limit {
    /// Sets it, or moves it.
    pub(crate) fn set(&self, instant: Instant) {
        *self.lock() = Some(instant);
    }

    /// What it was set for has ended.
    pub(crate) fn lift(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what makes calls, one after another or only one, until it ends or a call has passed its limit.
    pub(crate) async fn hold<F: Future>(self, calls: F) -> Option<F::Output> {
        let mut calls = pin!(LIMIT.scope(self.clone(), calls));
        let mut alarm = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            if let Poll::Ready(ended) = calls.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            // Looked at after each poll of the call, and so after the call has said its limit.
            let Some(instant) = *self.lock() else { return Poll::Pending };
            if alarm.deadline() != instant {
                alarm.as_mut().reset(instant);
            }
            alarm.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
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
        // hyper's future of a call is as large as that of a connection, and each of the futures around it would hold it
        // twice: eight kilobytes that are copied several times for each call.
        let call = Box::pin(call);
        self.0.spawn_root("call", async move {
            // Whether it ended or was dropped: there is nothing more to do.
            let _ = Limit::default().hold(call).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_for_the_call_that_set_it_and_not_for_the_silence_after() {
        let second = Duration::from_secs(1);
        let limit = Limit::default();
        let calls = {
            let limit = limit.clone();
            async move {
                drop_call_at(Instant::now() + second);
                limit.lift();
                tokio::time::sleep(10 * second).await;
                drop_call_at(Instant::now() + second);
                tokio::time::sleep(10 * second).await;
            }
        };
        let begun = Instant::now();
        assert_eq!(limit.hold(calls).await, None);
        assert_eq!(begun.elapsed().as_secs(), 11);
        assert_eq!(Limit::default().hold(async { 7 }).await, Some(7));
    }
}
