//! A few threads that share out the items of one kernel call.
//!
//! A step makes some two hundred calls, many of them shorter than a thread's way through the scheduler. So a helper that
//! runs out of work looks for more for a moment before it goes to sleep, and the caller never waits for a helper that has
//! not begun: it takes items itself until none is left, then waits only for those that are being worked on.

use std::{
    cell::UnsafeCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

/// Looks for new work before a helper sleeps: some tens of microseconds.
const LOOKS_BEFORE_SLEEP: u32 = 20_000;

/// Looks for the end of a call before the caller offers its core to others.
const LOOKS_BEFORE_YIELD: u32 = 2_000;

/// The work of one call: run for each item, on any thread.
type Work = dyn Fn(usize) + Sync;

/// Helper threads, owned by the thread that calls [`Pool::run`].
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Upper half: number of the call; lower half: items not yet taken. One word, so that taking an item also proves
    /// that the call it belongs to is still open.
    ticket: AtomicU64,
    /// Items of the call that are not done yet.
    unfinished: AtomicUsize,
    /// The call's work; valid while `unfinished` is not zero.
    work: UnsafeCell<Option<*const Work>>,
    panicked: AtomicBool,
    closing: AtomicBool,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `work` is written only by the caller while no item is open, and read only by who holds an open item.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `threads - 1` helpers; the caller of [`Pool::run`] is the last thread.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            unfinished: AtomicUsize::new(0),
            work: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        });
        let mut pool = Self { shared, helpers: Vec::new() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let helper =
                std::thread::Builder::new().name(format!("kernel-{index}")).spawn(move || shared.help())?;
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// Threads that work, the caller's own included.
    pub(super) fn threads(&self) -> usize {
        1 + self.helpers.len()
    }

    /// Runs `work` once for each item in `0..items` and returns when all are done. One call at a time: `&mut`.
    pub(crate) fn run(&mut self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        if items <= 1 || self.helpers.is_empty() {
            (0..items).for_each(work);
            return;
        }
        self.shared.open(items, work);
        while self.shared.take_and_run() {}
        self.shared.wait_for_the_rest();
        assert!(!self.shared.panicked.swap(false, Ordering::Relaxed), "a kernel panicked in a helper thread");
    }
}

#[cfg(test)]
impl Pool {
    /// Whether all helpers sleep.
    pub(super) fn is_asleep(&self) -> bool {
        self.shared.asleep.load(Ordering::SeqCst) == self.helpers.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake();
        for helper in self.helpers.drain(..) {
            // A helper catches panics of the work, so it has nothing to tell.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn open(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        // SAFETY: no item is open, so nobody reads `work`; the lifetime ends only after `wait_for_the_rest`, when no item
        // is open any more.
        unsafe {
            let work: *const (dyn Fn(usize) + Sync + '_) = work;
            *self.work.get() =
                Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Work>(work));
        }
        self.unfinished.store(items as usize, Ordering::Relaxed);
        let call = (self.ticket.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // SeqCst: either a helper that falls asleep sees the ticket, or we see that it sleeps.
        self.ticket.store((call << 32) | u64::from(items), Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.bell.notify_all();
    }

    /// Takes one item, if there is one, and runs it.
    fn take_and_run(&self) -> bool {
        let Some(item) = self.take() else { return false };
        // SAFETY: holding an item keeps the call open, so `work` is set and its borrow is alive.
        let run = catch_unwind(AssertUnwindSafe(|| unsafe {
            if let Some(work) = *self.work.get() {
                (*work)(item);
            }
        }));
        if run.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.unfinished.fetch_sub(1, Ordering::Release);
        true
    }

    fn take(&self) -> Option<usize> {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let left = ticket as u32;
            if left == 0 {
                return None;
            }
            match self.ticket.compare_exchange_weak(ticket, ticket - 1, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(left as usize - 1),
                Err(now) => ticket = now,
            }
        }
    }

    fn wait_for_the_rest(&self) {
        let mut looks = 0;
        while self.unfinished.load(Ordering::Acquire) > 0 {
            looks += 1;
            if looks < LOOKS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// A helper's life.
    fn help(&self) {
        while !self.closing.load(Ordering::Relaxed) {
            if self.take_and_run() || self.look_for_work() {
                continue;
            }
            self.sleep();
        }
    }

    fn look_for_work(&self) -> bool {
        (0..LOOKS_BEFORE_SLEEP).any(|_| {
            std::hint::spin_loop();
            self.ticket.load(Ordering::Relaxed) as u32 > 0
        })
    }

    fn sleep(&self) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while self.ticket.load(Ordering::SeqCst) as u32 == 0 && !self.closing.load(Ordering::SeqCst) {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}
