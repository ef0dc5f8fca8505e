//! What one tenant has used of one model. Pure: time is passed in.
//!
//! The rule that makes overshoot impossible: a token is *reserved* before it can be generated and *used* when it was; the
//! sum of both never rises but by a reservation, and none is made beyond the limit.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    config::Limits,
    window::{Clock, Slot, Window},
};

/// What one tenant has used of one model.
#[derive(Debug)]
pub(super) struct Account {
    clock: Clock,
    requests: Window,
    tokens: Window,
    /// Tokens that requests in flight may still use.
    reserved: u64,
    /// Requests in flight.
    streams: u64,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Requests,
    Tokens,
    Streams,
    /// Tenants and models that are accounted for.
    Accounts,
}

impl Kind {
    /// Its name in limits, errors and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Streams => "streams",
            Self::Accounts => "accounts",
        }
    }
}

/// A limit that does not allow what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    pub(super) limit: u64,
    pub(super) used: u64,
    pub(super) reserved: u64,
    pub(super) asked: u64,
    /// When asking again may help; `None` where it never will.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// There is no room for another account.
    pub(super) fn of_accounts(limit: u64, used: u64) -> Self {
        let retry_after = Some(A_WHILE);
        Self { kind: Kind::Accounts, limit, used, reserved: 0, asked: 1, retry_after }
    }
}

/// When to ask again where nobody knows when that helps.
const A_WHILE: Duration = Duration::from_secs(1);

/// What is in use now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) reserved: u64,
    pub(super) streams: u64,
}

/// Tokens to reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Fewer than these are of no use.
    pub(super) least: u64,
    /// More than these are not needed.
    pub(super) most: u64,
}

impl Account {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, requests: Window::default(), tokens: Window::default(), reserved: 0, streams: 0 }
    }

    /// Lets a request begin; the slot in which that is noted.
    pub(super) fn begin(&mut self, limits: &Limits, now: Instant) -> Result<Slot, Refusal> {
        let slot = self.turn(now);
        if let Some(limit) = limits.streams.filter(|limit| self.streams >= *limit) {
            // They end when they end; nobody knows when.
            let retry_after = (limit > 0).then_some(A_WHILE);
            return Err(Refusal {
                kind: Kind::Streams,
                limit,
                used: self.streams,
                reserved: 0,
                asked: 1,
                retry_after,
            });
        }
        if let Some(limit) = limits.requests.filter(|limit| self.requests.total() >= *limit) {
            let used = self.requests.total();
            let retry_after = (limit > 0).then(|| self.wait(&self.requests, used + 1 - limit, now));
            return Err(Refusal { kind: Kind::Requests, limit, used, reserved: 0, asked: 1, retry_after });
        }
        // Whoever has nothing left is told so before anything is done for it.
        self.room(limits, 1, now)?;
        self.requests.add(slot, 1);
        self.streams += 1;
        Ok(slot)
    }

    /// A request that was noted in this slot is not to be counted.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.requests.take(slot, 1);
    }

    /// A request is over.
    pub(super) fn end(&mut self) {
        self.streams = self.streams.saturating_sub(1);
    }

    /// Reserves as much of the wish as there is room for.
    pub(super) fn reserve(&mut self, limits: &Limits, wish: Wish, now: Instant) -> Result<u64, Refusal> {
        self.turn(now);
        let reserved = self.room(limits, wish.least, now)?.min(wish.most);
        self.reserved += reserved;
        Ok(reserved)
    }

    /// So many of the reserved tokens are used now; the slot in which that is noted.
    pub(super) fn charge(&mut self, tokens: u64, now: Instant) -> Slot {
        let slot = self.turn(now);
        self.reserved -= tokens.min(self.reserved);
        self.tokens.add(slot, tokens);
        slot
    }

    /// So many of the reserved tokens will not be used.
    pub(super) fn release(&mut self, tokens: u64) {
        self.reserved -= tokens.min(self.reserved);
    }

    /// Tokens that were noted in these slots are not to be paid.
    pub(super) fn refund(&mut self, tokens: Vec<(Slot, u64)>) {
        tokens.into_iter().for_each(|(slot, amount)| self.tokens.take(slot, amount));
    }

    /// What is in use now.
    pub(super) fn in_use(&mut self, now: Instant) -> Use {
        self.turn(now);
        Use {
            requests: self.requests.total(),
            tokens: self.tokens.total(),
            reserved: self.reserved,
            streams: self.streams,
        }
    }

    /// Whether it is as good as a new one.
    pub(super) fn is_idle(&mut self, now: Instant) -> bool {
        self.in_use(now) == Use::default()
    }

    /// How many tokens there is room for; an error where these are fewer than `asked`.
    fn room(&self, limits: &Limits, asked: u64, now: Instant) -> Result<u64, Refusal> {
        let Some(limit) = limits.tokens else { return Ok(u64::MAX) };
        let (used, reserved) = (self.tokens.total(), self.reserved);
        let room = limit.saturating_sub(used + reserved);
        if room >= asked {
            return Ok(room);
        }
        let retry_after = (asked <= limit).then(|| self.wait(&self.tokens, asked - room, now));
        Err(Refusal { kind: Kind::Tokens, limit, used, reserved, asked, retry_after })
    }

    /// How long until this much of a window is forgotten. What is reserved comes free when its requests end, which
    /// nobody knows: then in a while.
    fn wait(&self, window: &Window, amount: u64, now: Instant) -> Duration {
        window.forgotten(amount).map_or(A_WHILE, |slot| self.clock.until(slot, now))
    }

    fn turn(&mut self, now: Instant) -> Slot {
        let slot = self.clock.slot(now);
        self.requests.turn(slot);
        self.tokens.turn(slot);
        slot
    }
}
