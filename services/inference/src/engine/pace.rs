//! How a test holds an engine back: by a gate, and by virtual time.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

/// Lets steps through, or does not. Open at first. Cheap to clone; all clones are one gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    changed_async: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// How many may still pass while it is closed.
    admitted: usize,
    /// How many stand before it.
    held: usize,
}

impl Gate {
    /// Lets nothing more through.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.admitted = 0;
    }

    /// Lets everything through.
    pub fn open(&self) {
        self.lock().closed = false;
        self.wake();
    }

    /// Lets `count` more steps through although it is closed.
    pub fn admit(&self, count: usize) {
        self.lock().admitted += count;
        self.wake();
    }

    /// Resolves once a step stands before the closed gate.
    pub async fn held(&self) {
        loop {
            let changed = self.inner.changed_async.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().held > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Goes through, as soon as that is allowed. Blocks the thread.
    pub fn pass(&self) {
        let mut state = self.lock();
        state.held += 1;
        self.inner.changed_async.notify_waiters();
        while !state.lets_through() {
            state = self.inner.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held -= 1;
    }

    /// The same, for a task.
    pub async fn passed(&self) {
        self.lock().held += 1;
        self.inner.changed_async.notify_waiters();
        loop {
            let changed = self.inner.changed_async.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().lets_through() {
                break;
            }
            changed.await;
        }
        self.lock().held -= 1;
    }

    fn wake(&self) {
        self.inner.changed.notify_all();
        self.inner.changed_async.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lets_through(&mut self) -> bool {
        if !self.closed {
            return true;
        }
        let allowed = self.admitted > 0;
        self.admitted = self.admitted.saturating_sub(1);
        allowed
    }
}

/// How fast an engine that is stepped as a task goes.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Stands before every step.
    pub gate: Gate,
    /// How long a step takes, by the (paused) clock.
    pub step_time: Duration,
}

impl Pace {
    /// Resolves when the next step may begin.
    pub(super) async fn turn(&self) {
        self.gate.passed().await;
        if self.step_time.is_zero() {
            // Even then others get their turn, as they would beside a thread.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(self.step_time).await;
        }
    }
}
