//! Stops calling a replica that only fails, and finds out when it is well again.
//!
//! ```text
//! Closed ── failures in a row ──▶ Open ── pause over, one call let through ──▶ Probing ── it is answered ──▶ Closed
//!                                   ▲──────────────── it fails (the pause doubles) ────────┘
//! ```
//!
//! A replica that fails at once has no calls in flight, so to a balancer that looks for the least load it looks like
//! the best one (DESIGN fact 6). Below the limit a failure therefore weighs like load; at the limit the breaker opens.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long it stays open at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Calls in flight that a failure weighs as much as.
const FAILURE_WEIGHT: usize = 8;

/// One replica's breaker.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    Probing { pause: Duration },
}

impl Default for Breaker {
    fn default() -> Self {
        Self(Mutex::new(State::Closed { failures: 0 }))
    }
}

impl Breaker {
    /// Whether a call may be sent.
    pub(super) fn allows(&self) -> bool {
        match *self.lock() {
            State::Closed { .. } => true,
            State::Open { until, .. } => Instant::now() >= until,
            State::Probing { .. } => false,
        }
    }

    /// Whether it is not closed.
    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.lock(), State::Closed { .. })
    }

    /// What recent failures weigh, in calls in flight.
    pub(super) fn weight(&self) -> usize {
        match *self.lock() {
            State::Closed { failures } => failures as usize * FAILURE_WEIGHT,
            State::Open { .. } | State::Probing { .. } => FAILURES as usize * FAILURE_WEIGHT,
        }
    }

    /// A call is sent. Whether it is the probe: the first one behind an open breaker.
    pub(super) fn sent(&self) -> bool {
        let mut state = self.lock();
        let State::Open { pause, .. } = *state else { return false };
        *state = State::Probing { pause };
        true
    }

    /// The replica answered: what it said is its callers' matter. Whether that closed the breaker.
    pub(super) fn answered(&self) -> bool {
        let before = std::mem::replace(&mut *self.lock(), State::Closed { failures: 0 });
        !matches!(before, State::Closed { .. })
    }

    /// The replica could not be reached, or refuses all work. Whether that opened a closed breaker.
    pub(super) fn failed(&self, probe: bool) -> bool {
        let mut state = self.lock();
        let opens = matches!(*state, State::Closed { failures } if failures + 1 >= FAILURES);
        *state = match *state {
            State::Closed { .. } if opens => open(PAUSES.0),
            State::Closed { failures } => State::Closed { failures: failures + 1 },
            State::Probing { pause } if probe => open((pause * 2).min(PAUSES.1)),
            // Calls sent before it opened say nothing new.
            still => still,
        };
        opens
    }

    /// The probe ended without a verdict: the next one may try at once.
    pub(super) fn left(&self) {
        let mut state = self.lock();
        if let State::Probing { pause } = *state {
            *state = State::Open { until: Instant::now(), pause };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(pause: Duration) -> State {
    State::Open { until: Instant::now() + pause, pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let breaker = Breaker::default();
        (0..FAILURES).for_each(|_| {
            breaker.failed(false);
        });
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let breaker = opened();
        assert!(!breaker.allows());
        tokio::time::advance(PAUSES.0).await;
        assert!(breaker.allows());
        breaker.sent();
        assert!(!breaker.allows(), "a second probe");
        breaker.answered();
        assert!(breaker.allows());
        assert_eq!(breaker.weight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_with_each_failed_probe_up_to_its_limit() {
        let breaker = opened();
        let mut pause = PAUSES.0;
        tokio::time::advance(pause).await;
        for _ in 0..10 {
            assert!(breaker.sent());
            breaker.failed(true);
            pause = (pause * 2).min(PAUSES.1);
            tokio::time::advance(pause - Duration::from_millis(1)).await;
            assert!(!breaker.allows(), "before {pause:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(breaker.allows(), "after {pause:?}");
        }
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed(false);
            breaker.failed(false);
            breaker.answered();
        }
        assert!(breaker.allows());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_before_it_opened_says_nothing_about_the_probe() {
        let breaker = opened();
        tokio::time::advance(PAUSES.0).await;
        assert!(breaker.sent());
        assert!(!breaker.failed(false), "it was open");
        assert!(!breaker.allows(), "the probe is still on its way");
        breaker.failed(true);
        tokio::time::advance(PAUSES.0).await;
        assert!(!breaker.allows(), "the pause has doubled once, and only once");
        tokio::time::advance(PAUSES.0).await;
        assert!(breaker.allows());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_whose_caller_leaves_is_made_again() {
        let breaker = opened();
        tokio::time::advance(PAUSES.0).await;
        breaker.sent();
        breaker.left();
        assert!(breaker.allows());
    }
}
