//! The room: who is worked on, who waits, who is let in next, and who is not let in at all. Pure: the clock is passed in,
//! and nothing in here waits.
//!
//! Who waits delays its own first token, so waiting is for bursts. While the room is calm a request may wait as long as
//! `max_wait`; once one was refused it is taken for overloaded, and then only a tenth of that, until nobody was refused
//! for a second: a queue that always stands would give every caller its whole length and nobody anything. A tenant within
//! its fair share may always wait, and longer, since it waits only for the next places that others leave.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{
    config::Admission,
    drain::Drain,
    expectation::Expectation,
    limit::{Limit, Started},
    line::{Asked, Line, Verdict, Waiter},
    load::Load,
    refusal::{Cause, Refusal, Scarce},
    tenants::Tenants,
};

/// How long after a refusal the room is taken for overloaded.
const OVERLOADED: Duration = Duration::from_secs(1);
/// The part of `max_wait` that is allowed then.
const WHILE_OVERLOADED: u32 = 10;

/// The room.
#[derive(Debug)]
pub(super) struct Room {
    config: Admission,
    pub(super) limit: Limit,
    pub(super) expectation: Expectation,
    pub(super) drain: Drain,
    tenants: Tenants,
    line: Line,
    used: Load,
    last_refusal: Option<Instant>,
    tickets: u64,
}

/// How long a request was in the room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stayed {
    /// From being let in to its end.
    pub(super) whole: Duration,
    /// In inference's queue.
    pub(super) queued: Duration,
}

/// What becomes of a request that arrives.
#[derive(Debug)]
pub(super) enum Entry {
    /// It is let in.
    In,
    /// It waits, so long at most.
    Waits { ticket: u64, told: oneshot::Receiver<Verdict>, at_most: Duration },
}

impl Room {
    pub(super) fn new(config: &Admission) -> Self {
        Self {
            limit: Limit::new(config),
            expectation: Expectation::new(config),
            config: config.clone(),
            drain: Drain::default(),
            tenants: Tenants::default(),
            line: Line::default(),
            used: Load::default(),
            last_refusal: None,
            tickets: 0,
        }
    }

    /// A request wants in.
    pub(super) fn arrive(&mut self, asked: Asked, now: Instant) -> Result<Entry, Refusal> {
        self.tenants.arrive(&asked.tenant, now);
        if self.line.is_empty() && self.fits(&asked) {
            self.take(&asked, now);
            return Ok(Entry::In);
        }
        let ticket = self.tickets;
        self.tickets += 1;
        let (tell, told) = oneshot::channel();
        let (_, at_most) = self.patience(&asked);
        self.line.push(Waiter { ticket, asked, tell });
        self.let_in(now);
        if let Some(cause) = self.line.get(ticket).and_then(|waiter| self.objection(waiter, now)) {
            return match self.dismiss(ticket, cause, now) {
                Some((_, refusal)) => Err(refusal),
                None => Ok(Entry::Waits { ticket, told, at_most }),
            };
        }
        self.shorten(now);
        Ok(Entry::Waits { ticket, told, at_most })
    }

    /// A request that waited as long as it may; `None` if it was let in meanwhile.
    pub(super) fn give_up(&mut self, ticket: u64, now: Instant) -> Option<Refusal> {
        let (knob, _) = self.patience(&self.line.get(ticket)?.asked);
        self.dismiss(ticket, Cause::Waited(knob), now).map(|(_, refusal)| refusal)
    }

    /// A caller who waited has left; answers whether it was still waiting.
    pub(super) fn abandon(&mut self, ticket: u64, now: Instant) -> bool {
        let Some(waiter) = self.line.remove(ticket) else { return false };
        self.tenants.stop_waiting(&waiter.asked.tenant, None, now);
        self.let_in(now);
        true
    }

    /// The tokens of a request that was let in are now known better.
    pub(super) fn correct(&mut self, asked: &mut Asked, tokens: u64, now: Instant) {
        let (from, to) = (asked.load, Load { tokens, ..asked.load });
        asked.load = to;
        self.used -= from;
        self.used += to;
        self.tenants.change(&asked.tenant, from, to);
        self.let_in(now);
    }

    /// A request has its place in inference's batch.
    pub(super) fn started(&mut self, started: Started, now: Instant) {
        self.limit.started(started, self.used.tokens, self.drain.work(), now);
        self.let_in(now);
    }

    /// A request that was let in is over.
    pub(super) fn leave(&mut self, asked: &Asked, stayed: Stayed, now: Instant) {
        self.used -= asked.load;
        self.tenants.leave(&asked.tenant, asked.load, now);
        self.drain.left(stayed.whole, stayed.queued);
        self.let_in(now);
    }

    /// Why a request finds no place among those in flight.
    pub(super) fn full(&self, limit: usize) -> Refusal {
        let one = Load { requests: 1, tokens: 0 };
        Refusal {
            cause: Cause::InFlight,
            scarce: Scarce {
                knob: "admission.max_in_flight",
                limit: limit as u64,
                configured: limit as u64,
                used: limit as u64,
            },
            waiting: self.line.len(),
            wait: None,
            retry_after: self.drain.time_for(one, self.used).unwrap_or(self.config.retry_after),
        }
    }

    /// What is worked on.
    pub(super) fn used(&self) -> Load {
        self.used
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.line.len()
    }

    /// How many tenants count.
    pub(super) fn tenants(&self) -> usize {
        self.tenants.count()
    }

    /// All that may be worked on.
    fn whole(&self) -> Load {
        Load { requests: self.config.max_running as u64, tokens: self.limit.tokens() }
    }

    fn beyond_share(&self, asked: &Asked) -> bool {
        self.tenants.beyond_share(&asked.tenant, asked.load, self.whole())
    }

    /// What of the room a request may fill.
    fn ceiling(&self, asked: &Asked) -> Load {
        let background = if asked.priority < 0 { self.config.background_share } else { 1.0 };
        let reserved = if self.beyond_share(asked) { self.config.reserve } else { 0.0 };
        self.whole().share(background.min(1.0 - reserved))
    }

    /// Whether there is room for a request. For one that is larger than the room there is when it is empty.
    fn fits(&self, asked: &Asked) -> bool {
        let excess = (self.used + asked.load).beyond(self.ceiling(asked));
        self.used == Load::default() || excess == Load::default()
    }

    /// Lets in who comes next, as long as there is room.
    fn let_in(&mut self, now: Instant) {
        loop {
            let first = self.line.first(&self.tenants, self.whole());
            let Some(ticket) = first.filter(|first| self.fits(&first.asked)).map(|first| first.ticket) else {
                return;
            };
            if let Some(Waiter { asked, tell, .. }) = self.line.remove(ticket) {
                self.take(&asked, now);
                // Whoever has stopped listening says so by itself.
                let _ = tell.send(Ok(()));
            }
        }
    }

    fn take(&mut self, asked: &Asked, now: Instant) {
        self.used += asked.load;
        self.tenants.stop_waiting(&asked.tenant, Some(asked.load), now);
    }

    /// Why a request should not wait.
    fn objection(&self, waiter: &Waiter, now: Instant) -> Option<Cause> {
        let wait = self.wait_of(waiter).unwrap_or_default();
        if waiter.asked.deadline.is_some_and(|deadline| now + wait >= deadline) {
            return Some(Cause::Deadline);
        }
        let (knob, patience) = self.patience(&waiter.asked);
        let overloaded = self.last_refusal.is_some_and(|last| now - last < OVERLOADED);
        let hurried = overloaded && !self.favoured(&waiter.asked);
        let longest = if hurried { patience / WHILE_OVERLOADED } else { patience };
        (wait > longest).then_some(Cause::Wait(knob))
    }

    /// How long a request may wait while the room is calm, and the knob that says so.
    fn patience(&self, asked: &Asked) -> (&'static str, Duration) {
        let (usual, longer) = (self.config.max_wait, self.config.max_wait_within_share);
        if self.favoured(asked) && longer > usual {
            ("admission.max_wait_within_share", longer)
        } else {
            ("admission.max_wait", usual)
        }
    }

    /// Whether a request is within the fair share of its tenant, one of several.
    fn favoured(&self, asked: &Asked) -> bool {
        self.tenants.count() > 1 && !self.beyond_share(asked)
    }

    /// How long a request will wait, as far as was measured.
    fn wait_of(&self, waiter: &Waiter) -> Option<Duration> {
        self.drain.time_for(self.missing(waiter), self.used)
    }

    /// What has to leave before a request is let in.
    fn missing(&self, waiter: &Waiter) -> Load {
        let ahead = self.line.ahead_of(waiter, &self.tenants, self.whole());
        (self.used + ahead + waiter.asked.load).beyond(self.ceiling(&waiter.asked))
    }

    /// Sends those away that come last, where too many wait.
    fn shorten(&mut self, now: Instant) {
        while self.line.len() > self.config.max_waiting {
            let Some(last) = self.line.last(&self.tenants, self.whole()).map(|last| last.ticket) else {
                return;
            };
            if let Some((waiter, refusal)) = self.dismiss(last, Cause::LineFull, now) {
                let _ = waiter.tell.send(Err(refusal));
            }
        }
    }

    fn dismiss(&mut self, ticket: u64, cause: Cause, now: Instant) -> Option<(Waiter, Refusal)> {
        let refusal = self.refusal(self.line.get(ticket)?, cause);
        let waiter = self.line.remove(ticket)?;
        self.tenants.stop_waiting(&waiter.asked.tenant, None, now);
        self.last_refusal = Some(now);
        self.let_in(now);
        Some((waiter, refusal))
    }

    fn refusal(&self, waiter: &Waiter, cause: Cause) -> Refusal {
        let (asked, wait) = (&waiter.asked, self.wait_of(waiter));
        let missing = self.missing(waiter);
        let tokens = missing.tokens as f64 * self.whole().requests as f64;
        let by_tokens = tokens > missing.requests as f64 * self.whole().tokens as f64;
        let (knob, pick): (_, fn(Load) -> u64) = if by_tokens {
            ("admission.max_tokens_in_flight", |load: Load| load.tokens)
        } else {
            ("admission.max_running", |load: Load| load.requests)
        };
        let cause = if self.beyond_share(asked) {
            let (used, share) = (self.tenants.used(&asked.tenant), self.tenants.share(self.whole()));
            let tenant = asked.tenant.name().map(str::to_owned);
            Cause::Share { tenant, used: pick(used), share: pick(share) }
        } else {
            cause
        };
        let configured =
            Load { requests: self.config.max_running as u64, tokens: self.config.max_tokens_in_flight };
        let scarce =
            Scarce { knob, limit: pick(self.whole()), configured: pick(configured), used: pick(self.used) };
        let retry_after = wait.unwrap_or(self.config.retry_after);
        Refusal { cause, scarce, waiting: self.line.len(), wait, retry_after }
    }
}
