//! Threads for work that must hold up neither the reactor nor the engine.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A grammar's own depth becomes recursion in its compiler and its lexer; its text is bounded, and this holds what the
/// bound allows (a test tries). Only what is touched takes memory.
const STACK_BYTES: usize = 256 << 20;

/// A handle to some threads that take jobs from one queue, in order. They end once every handle is gone.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    jobs: SyncSender<Job>,
}

impl Workers {
    /// Starts `threads` threads, named after `name`, with room for `queue` jobs that wait.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(super) fn start(name: &str, threads: usize, queue: usize) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(queue);
        let inbox = Arc::new(Mutex::new(inbox));
        for index in 0..threads {
            let inbox = Arc::clone(&inbox);
            let thread = thread::Builder::new().name(format!("{name}-{index}")).stack_size(STACK_BYTES);
            thread.spawn(move || work_off(&inbox))?;
        }
        Ok(Self { jobs })
    }

    /// Queues a job; where it panics, whatever it holds is dropped.
    ///
    /// # Errors
    /// The queue is full: the job comes back.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Job> {
        self.jobs.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

/// A thread's whole life.
fn work_off(inbox: &Mutex<Receiver<Job>>) {
    loop {
        // A job never panics while the lock is held, so a poisoned lock guards nothing broken.
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Whoever waits for it sees its channel close.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}
