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

use humantime::format_duration;
use tokio::time::Instant;

use crate::config::{FromConfig, Section, between, positive};

/// Calls in flight that a failure weighs as much as.
const FAILURE_WEIGHT: usize = 8;

/// When a replica that only fails is left alone.
#[derive(Clone, Debug)]
pub struct BreakerConfig {
    /// `failures`: so many in a row open it.
    pub failures: u32,
    /// `pause`: how long it stays open at first; each probe that fails doubles it,
    pub pause: Duration,
    /// `max_pause`: up to this.
    pub max_pause: Duration,
    /// `max_open_share`: where more than this part of a peer's replicas are left alone, none is: the few that are left
    /// could not do the work of all.
    pub max_open_share: f64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 3,
            pause: Duration::from_millis(500),
            max_pause: Duration::from_secs(30),
            max_open_share: 0.5,
        }
    }
}

impl FromConfig for BreakerConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        let config = Self {
            failures: section.value("failures", default.failures, between(1, 1_000)),
            pause: section.value("pause", default.pause, positive()),
            max_pause: section.value("max_pause", default.max_pause, positive()),
            max_open_share: section.value("max_open_share", default.max_open_share, between(0.0, 1.0)),
        };
        if config.max_pause < config.pause {
            let (found, least) = (format_duration(config.max_pause), format_duration(config.pause));
            section.problem("max_pause", found, format!("must be at least pause ({least})"));
        }
        config
    }
}

/// One replica's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    Probing { pause: Duration },
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Whether a call may be sent.
    pub(super) fn allows(&self) -> bool {
        match *self.lock() {
            State::Closed { .. } => true,
            State::Open { until, .. } => Instant::now() >= until,
            State::Probing { .. } => false,
        }
    }

    /// Whether it is open and its pause is over: the next call is the probe.
    pub(super) fn is_due(&self) -> bool {
        matches!(*self.lock(), State::Open { until, .. } if Instant::now() >= until)
    }

    /// Whether it is not closed.
    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.lock(), State::Closed { .. })
    }

    /// What recent failures weigh, in calls in flight.
    pub(super) fn weight(&self) -> usize {
        match *self.lock() {
            State::Closed { failures } => failures as usize * FAILURE_WEIGHT,
            State::Open { .. } | State::Probing { .. } => self.config.failures as usize * FAILURE_WEIGHT,
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
        let opens = matches!(*state, State::Closed { failures } if failures + 1 >= self.config.failures);
        *state = match *state {
            State::Closed { .. } if opens => open(self.config.pause),
            State::Closed { failures } => State::Closed { failures: failures + 1 },
            State::Probing { pause } if probe => open((pause * 2).min(self.config.max_pause)),
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(pause: Duration) -> State {
    State::Open { until: Instant::now() + pause, pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Breaker {
        Breaker::new(BreakerConfig::default())
    }

    fn opened() -> Breaker {
        let breaker = closed();
        (0..breaker.config.failures).for_each(|_| {
            breaker.failed(false);
        });
        breaker
    }

    fn first_pause() -> Duration {
        BreakerConfig::default().pause
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let breaker = opened();
        assert!(!breaker.allows());
        tokio::time::advance(first_pause()).await;
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
        let mut pause = first_pause();
        tokio::time::advance(pause).await;
        for _ in 0..10 {
            assert!(breaker.sent());
            breaker.failed(true);
            pause = (pause * 2).min(breaker.config.max_pause);
            tokio::time::advance(pause - Duration::from_millis(1)).await;
            assert!(!breaker.allows(), "before {pause:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(breaker.allows(), "after {pause:?}");
        }
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let breaker = closed();
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
        tokio::time::advance(first_pause()).await;
        assert!(breaker.sent());
        assert!(!breaker.failed(false), "it was open");
        assert!(!breaker.allows(), "the probe is still on its way");
        breaker.failed(true);
        tokio::time::advance(first_pause()).await;
        assert!(!breaker.allows(), "the pause has doubled once, and only once");
        tokio::time::advance(first_pause()).await;
        assert!(breaker.allows());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_whose_caller_leaves_is_made_again() {
        let breaker = opened();
        tokio::time::advance(first_pause()).await;
        breaker.sent();
        breaker.left();
        assert!(breaker.allows());
    }
}
