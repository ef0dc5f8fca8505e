//! How much is let in at once, and whom.
//!
//! Two doors. The outer one ([`arrivals`]) counts requests as they arrive, before a byte of them is read; it protects this
//! process. The inner one ([`Admission::admit`]) stands where a request is understood and nothing was done for it yet. It
//! counts what inference will have to hold: tokens of the prompt (guessed from its bytes, then as the tokenizer counts
//! them) and of the answer (as many as answers had lately, at most those that were asked for).
//!
//! Map: `config`, `arrivals` (the outer door), `room` (the rules of the inner one), `line` (who waits), `tenants` (fair
//! shares), `limit` (follows how long inference lets requests wait), `expectation` (what a request will cost), `drain` (how
//! fast the room empties), `load`, `refusal` (what a caller is told), `metrics`.
//!
//! Rules: who is refused is refused before anything was done for it, and told when to come back; who waits, waits in here,
//! briefly, where it can be told early and where tenants are told apart, not in inference's queue; a permit is held until
//! the last token.

mod arrivals;
pub(crate) mod config;
mod drain;
mod expectation;
mod limit;
mod line;
mod load;
mod metrics;
pub(crate) mod refusal;
mod room;
mod tenants;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use weft_runtime::Deadline;

pub(crate) use self::{
    arrivals::{AdmissionLayer, Arrivals},
    expectation::{Extent, Size},
};
use self::{
    limit::Started,
    line::{Asked, Verdict},
    load::Load,
    metrics::AdmissionMetrics,
    refusal::Refusal,
    room::{Entry, Room, Stayed},
};
use super::tenant::Tenant;

/// The inner door, and what both doors share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: config::Admission,
    room: Mutex<Room>,
    metrics: AdmissionMetrics,
}

/// Who wants in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visitor<'a> {
    pub(crate) tenant: &'a Tenant,
    pub(crate) priority: i32,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) size: Size,
}

impl Admission {
    pub(crate) fn new(config: &config::Admission, metrics: &weft_runtime::metrics::Metrics) -> Self {
        let metrics = AdmissionMetrics::new(metrics, config);
        let room = Room::new(config);
        metrics.show(&room);
        Self { inner: Arc::new(Inner { config: config.clone(), room: Mutex::new(room), metrics }) }
    }

    /// The outer door.
    pub(crate) fn layer(&self) -> AdmissionLayer {
        AdmissionLayer::new(self.clone())
    }

    /// Lets a request in, at once or after a short wait, or refuses it.
    pub(crate) async fn admit(&self, visitor: Visitor<'_>) -> Result<Permit, Refusal> {
        let arrived = Instant::now();
        let (asked, entry) = self.change(|room| {
            let size = visitor.size;
            let tokens = room.expectation.prompt(size) + room.expectation.output(size);
            let asked = Asked {
                tenant: visitor.tenant.clone(),
                priority: visitor.priority,
                load: Load { requests: size.answers.into(), tokens },
                deadline: visitor.deadline.map(Deadline::instant),
            };
            let entry = room.arrive(asked.clone(), arrived);
            (asked, entry)
        });
        let granted = match entry {
            Ok(Entry::In) => Ok(()),
            Ok(Entry::Waits { ticket, told, at_most }) => {
                let waiting = Waiting { admission: self, asked: &asked, ticket, told };
                waiting.until(arrived + at_most).await
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = granted {
            self.inner.metrics.refused(&refusal.cause);
            return Err(refusal);
        }
        let let_in = Instant::now();
        self.inner.metrics.waits.observe((let_in - arrived).as_secs_f64());
        Ok(Permit {
            admission: self.clone(),
            asked: Mutex::new(asked),
            size: visitor.size,
            let_in,
            queued_micros: AtomicU64::new(0),
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Room) -> T) -> T {
        let mut room = lock(&self.inner.room);
        let outcome = change(&mut room);
        self.inner.metrics.show(&room);
        outcome
    }
}

/// What is behind a mutex in here is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that waits. Dropping it is leaving the line, or the room if it was let in and nobody knows yet.
struct Waiting<'a> {
    admission: &'a Admission,
    asked: &'a Asked,
    ticket: u64,
    told: oneshot::Receiver<Verdict>,
}

impl Waiting<'_> {
    async fn until(mut self, latest: Instant) -> Verdict {
        match timeout_at(latest, &mut self.told).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => self.give_up(),
        }
    }

    fn give_up(&mut self) -> Verdict {
        let limit = self.admission.inner.config.max_in_flight;
        self.admission.change(|room| match room.give_up(self.ticket, Instant::now()) {
            Some(refusal) => Err(refusal),
            // It was told something in the same moment.
            None => self.told.try_recv().unwrap_or_else(|_| Err(room.full(limit))),
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.admission.change(|room| {
            let now = Instant::now();
            if !room.abandon(self.ticket, now) && matches!(self.told.try_recv(), Ok(Ok(()))) {
                room.leave(self.asked, Stayed::default(), now);
            }
        });
    }
}

/// Leave to work on a request. Dropping it is leaving the room.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Admission,
    asked: Mutex<Asked>,
    size: Size,
    let_in: Instant,
    queued_micros: AtomicU64,
}

impl Permit {
    /// The prompt was counted.
    pub(crate) fn prompt_has(&self, tokens: usize) {
        self.admission.change(|room| {
            let tokens = tokens as u64;
            room.expectation.counted(self.size, tokens);
            let whole = tokens + room.expectation.output(self.size);
            room.correct(&mut lock(&self.asked), whole, Instant::now());
        });
    }

    /// The request was sent to inference at this time and waited so long for its place in the batch.
    pub(crate) fn started(&self, sent: Instant, queued: Duration) {
        let micros = u64::try_from(queued.as_micros()).unwrap_or(u64::MAX);
        self.queued_micros.store(micros, Ordering::Relaxed);
        self.admission.change(|room| room.started(Started { sent, queued }, Instant::now()));
    }

    /// The answer ended by itself, with so many tokens.
    pub(crate) fn answered(&self, tokens: u32) {
        self.admission.change(|room| room.expectation.answered(tokens));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = Instant::now();
        let queued = Duration::from_micros(self.queued_micros.load(Ordering::Relaxed));
        let stayed = Stayed { whole: now - self.let_in, queued };
        self.admission.change(|room| room.leave(&lock(&self.asked), stayed, now));
    }
}
