//! How many tokens may be worked on: as many as inference takes without letting everybody wait.
//!
//! Inference says of every request how long it waited for a place in the batch. A burst makes some wait, and does no
//! harm; but where even the luckiest of an interval has waited, the queue stands, and holds nothing but time (Nichols
//! and Jacobson, "Controlling Queue Delay", 2012). Then the limit falls at once by the share of their time that requests
//! spend waiting, which by Little's law is the share of them that waits. While nobody waits and the room is in use, it
//! rises by a twentieth.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Admission;

/// How long is looked at before the limit changes.
const INTERVAL: Duration = Duration::from_millis(500);
/// The fewest requests that say something about an interval.
const FEWEST: u32 = 4;
/// The most that the limit falls at once.
const LEAST_KEPT: f64 = 0.25;
/// What it rises by.
const RISE: f64 = 1.05;
/// The room is in use from here on.
const IN_USE: f64 = 0.8;

/// A request that has its place in inference's batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    /// When it was sent.
    pub(super) sent: Instant,
    /// How long it waited there.
    pub(super) queued: Duration,
}

/// The limit.
#[derive(Debug)]
pub(super) struct Limit {
    least: f64,
    most: f64,
    target: Duration,
    current: f64,
    /// Requests sent before that say nothing about the limit as it is now.
    changed: Option<Instant>,
    interval: Option<Interval>,
}

/// What was seen since the limit was last looked at.
#[derive(Clone, Copy, Debug)]
struct Interval {
    since: Instant,
    requests: u32,
    least_queued: Duration,
    most_used: u64,
}

impl Limit {
    pub(super) fn new(config: &Admission) -> Self {
        let most = config.max_tokens_in_flight as f64;
        Self {
            least: config.min_tokens_in_flight as f64,
            most,
            target: config.queue_target,
            current: most,
            changed: None,
            interval: None,
        }
    }

    /// The most tokens that may be worked on now.
    pub(super) fn tokens(&self) -> u64 {
        self.current as u64
    }

    /// A request waits no longer, while so many tokens are worked on. `work` is what a request takes beside
    /// its queue.
    pub(super) fn started(&mut self, started: Started, used: u64, work: Option<Duration>, now: Instant) {
        let Started { sent, queued } = started;
        if self.changed.is_some_and(|changed| sent < changed) {
            return;
        }
        let new = Interval { since: now, requests: 0, least_queued: queued, most_used: used };
        let interval = self.interval.get_or_insert(new);
        interval.requests += 1;
        interval.least_queued = interval.least_queued.min(queued);
        interval.most_used = interval.most_used.max(used);
        if interval.requests >= FEWEST && now - interval.since >= INTERVAL {
            let seen = *interval;
            self.interval = None;
            self.judge(seen, work.unwrap_or_default(), now);
        }
    }

    fn judge(&mut self, seen: Interval, work: Duration, now: Instant) {
        let used = seen.most_used as f64;
        if seen.least_queued > self.target {
            // As long as none has left, nobody knows how many wait; that many do is certain.
            let works = work.as_secs_f64() / (work + seen.least_queued).as_secs_f64();
            let fallen = self.current.min(used) * works.max(LEAST_KEPT);
            self.current = fallen.max(self.least);
            self.changed = Some(now);
        } else if used >= IN_USE * self.current {
            self.current = (self.current * RISE).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_runtime::config::parse;

    use super::*;

    fn limit() -> Limit {
        Limit::new(&parse("max_tokens_in_flight = 10_000\nmin_tokens_in_flight = 1_000", &[]).unwrap())
    }

    /// Ten requests in a second that waited as `queued` says of each.
    fn second(limit: &mut Limit, start: Instant, used: u64, queued: impl Fn(u64) -> u64) -> Instant {
        for at in 0..10 {
            let now = start + Duration::from_millis(100 * at);
            let started = Started { sent: now, queued: Duration::from_millis(queued(at)) };
            limit.started(started, used, Some(Duration::from_secs(3)), now);
        }
        start + Duration::from_secs(1)
    }

    #[test]
    fn a_standing_queue_lowers_the_limit_by_the_share_that_waits_and_a_burst_does_not() {
        let mut limit = limit();
        let start = Instant::now();
        let later = second(&mut limit, start, 9_000, |at| 500 * (at % 3));
        assert_eq!(limit.tokens(), 10_000, "somebody did not wait");
        second(&mut limit, later, 9_000, |_| 1_000);
        // Of four seconds that each stays, one is waiting.
        assert_eq!(limit.tokens(), 6_750);
    }

    #[test]
    fn it_rises_again_while_it_is_in_use_and_keeps_to_its_bounds() {
        let mut limit = limit();
        let mut now = Instant::now();
        for _ in 0..20 {
            now = second(&mut limit, now, 9_000, |_| 10_000);
        }
        assert_eq!(limit.tokens(), 1_000, "never below what is configured");
        limit.interval = None;
        now = second(&mut limit, now, 500, |_| 0);
        assert_eq!(limit.tokens(), 1_000, "nobody needs more");
        for _ in 0..60 {
            let used = limit.tokens();
            now = second(&mut limit, now, used, |_| 0);
        }
        assert_eq!(limit.tokens(), 10_000);
    }
}
