//! Threads for CPU work, so that a long text never holds up the reactor.
//!
//! A fixed number of threads takes jobs from one bounded queue, in order. A full queue refuses at once: the caller's
//! balancer has other replicas, and a queue that grows only turns overload into late answers. A job whose caller has
//! left (dropped, out of time) is not begun.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

// One whose receiver has many owners: behind a lock, each job would wake a second thread, only to wait for the next job.
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::{
    config::PoolConfig,
    error::{Error, LoadError},
    metrics::PoolMetrics,
};

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the threads. Cheap to clone; the threads end once every handle is gone.
#[derive(Clone, Debug)]
pub struct Pool {
    jobs: Sender<Job>,
    queue: usize,
    inline_bytes: usize,
    metrics: PoolMetrics,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn start(config: &PoolConfig, metrics: PoolMetrics) -> Result<Self, LoadError> {
        let (jobs, inbox) = bounded(config.queue);
        for index in 0..config.threads {
            let inbox = inbox.clone();
            let thread = thread::Builder::new().name(format!("tokenize-{index}"));
            thread.spawn(move || work_off(&inbox)).map_err(LoadError::NoThread)?;
        }
        Ok(Self { jobs, queue: config.queue, inline_bytes: config.inline_bytes, metrics })
    }

    /// Runs `work` where it belongs: on the calling thread if `bytes` of input are few enough not to be noticed
    /// there, else on a thread of the pool.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub async fn run_sized<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= self.inline_bytes { guarded(work) } else { self.run(work).await }
    }

    /// Runs `work` on a thread of the pool.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full, [`Error::Panicked`] if the work panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let depth = self.metrics.queue_depth.clone();
        let job = move || {
            depth.dec();
            if !reply.is_closed() {
                // The caller may leave while we work; then nobody wants the answer.
                let _ = reply.send(guarded(work));
            }
        };
        self.metrics.queue_depth.inc();
        if let Err(error) = self.jobs.try_send(Box::new(job)) {
            self.metrics.queue_depth.dec();
            return Err(self.refusal(&error));
        }
        answer.await.map_err(|_| Error::Stopped)?
    }

    fn refusal(&self, error: &TrySendError<Job>) -> Error {
        match error {
            TrySendError::Full(_) => {
                self.metrics.refused.inc();
                Error::Busy { queue: self.queue }
            }
            TrySendError::Disconnected(_) => Error::Stopped,
        }
    }
}

/// A thread's whole life: until every handle is gone.
fn work_off(inbox: &Receiver<Job>) {
    inbox.iter().for_each(|job| job());
}

/// The panic's own words stay out of the error: they may quote the text that was worked on.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::Panicked)
}

#[cfg(test)]
mod tests;
