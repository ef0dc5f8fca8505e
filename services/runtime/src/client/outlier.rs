//! Leaves a replica alone for a while whose calls fail more often than those of the others.
//!
//! The breaker sees failures in a row; a replica that fails every other call has none. What fails everywhere is not a
//! replica's fault, so each is compared with all the others together. Envoy asks how many standard deviations a host is
//! below the mean; among n hosts none can be more than √(n−1) away, so its usual 1.9 finds nothing among fewer than five.
//! A difference of shares finds the one of two.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use humantime::format_duration;
use tokio::time::Instant;
use tonic::Code;

use super::replica::Replica;
use crate::config::{FromConfig, Section, between, positive};

/// When a replica that fails more often than the others is left alone.
#[derive(Clone, Debug)]
pub struct OutlierConfig {
    /// `interval`: how long calls are counted before replicas are compared.
    pub interval: Duration,
    /// `min_calls`: a replica that has ended fewer in that time is not judged.
    pub min_calls: u32,
    /// `margin`: how much larger the failing part of its calls must be than that of the others.
    pub margin: f64,
    /// `ejection`: how long it is left alone the first time; each time in succession doubles it,
    pub ejection: Duration,
    /// `max_ejection`: up to this.
    pub max_ejection: Duration,
    /// `max_ejected_share`: no more than this part of the replicas is left alone at a time. 0 turns it off.
    pub max_ejected_share: f64,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_calls: 20,
            margin: 0.2,
            ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected_share: 0.5,
        }
    }
}

impl FromConfig for OutlierConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        let config = Self {
            interval: section.value("interval", default.interval, positive()),
            min_calls: section.value("min_calls", default.min_calls, between(1, 1_000_000)),
            margin: section.value("margin", default.margin, between(0.01, 1.0)),
            ejection: section.value("ejection", default.ejection, positive()),
            max_ejection: section.value("max_ejection", default.max_ejection, positive()),
            max_ejected_share: section.value(
                "max_ejected_share",
                default.max_ejected_share,
                between(0.0, 1.0),
            ),
        };
        if config.max_ejection < config.ejection {
            let (found, least) = (format_duration(config.max_ejection), format_duration(config.ejection));
            section.problem("max_ejection", found, format!("must be at least ejection ({least})"));
        }
        config
    }
}

/// How one replica's calls ended since they were last looked at, and whether it is left alone.
#[derive(Debug, Default)]
pub(super) struct Record {
    calls: AtomicU32,
    failures: AtomicU32,
    ejection: Mutex<Ejection>,
}

#[derive(Debug, Default)]
struct Ejection {
    until: Option<Instant>,
    /// How many times in succession.
    times: u32,
}

/// Calls that have ended, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    calls: u32,
    failures: u32,
}

impl Tally {
    fn failing(self) -> f64 {
        f64::from(self.failures) / f64::from(self.calls.max(1))
    }
}

impl Record {
    /// A call has ended so.
    pub(super) fn count(&self, code: Code) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if is_failure(code) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it is left alone now.
    pub(super) fn is_ejected(&self) -> bool {
        self.lock().until.is_some()
    }

    /// Lets it back in where its time is over. Whether that happened now.
    pub(super) fn returns(&self) -> bool {
        let mut ejection = self.lock();
        let over = ejection.until.is_some_and(|until| Instant::now() >= until);
        if over {
            ejection.until = None;
            // What ended meanwhile began before.
            self.take();
        }
        over
    }

    /// Forgets how calls ended, and lets it back in. Whether it was left alone. How often that was in succession is
    /// remembered: one that only seems to come back is left alone the longer.
    pub(super) fn forget(&self) -> bool {
        self.take();
        self.lock().until.take().is_some()
    }

    /// Leaves it alone. Returns for how long.
    pub(super) fn eject(&self, config: &OutlierConfig) -> Duration {
        let mut ejection = self.lock();
        let doubled = config.ejection.saturating_mul(1 << ejection.times.min(16));
        let time = doubled.min(config.max_ejection);
        ejection.times += 1;
        ejection.until = Some(Instant::now() + time);
        time
    }

    /// It was as good as the others.
    fn passes(&self) {
        let mut ejection = self.lock();
        ejection.times = ejection.times.saturating_sub(1);
    }

    fn take(&self) -> Tally {
        Tally {
            failures: self.failures.swap(0, Ordering::Relaxed),
            calls: self.calls.swap(0, Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a replica can be blamed for where others do better. A full queue is not among it: that is load, and the
/// balancer's.
fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss | Code::DeadlineExceeded
    )
}

/// Compares the replicas of one peer, now and then.
#[derive(Debug)]
pub(super) struct Outliers {
    config: OutlierConfig,
    next: Mutex<Instant>,
}

impl Outliers {
    pub(super) fn new(config: OutlierConfig) -> Self {
        let next = Mutex::new(Instant::now() + config.interval);
        Self { config, next }
    }

    /// Lets those back in whose time is over; compares the others where an interval has passed. Driven by calls: without
    /// them there is nothing to compare.
    pub(super) fn review(&self, replicas: &[Replica]) {
        replicas.iter().for_each(Replica::may_return);
        if !self.is_due() {
            return;
        }
        let (ejected, present): (Vec<_>, Vec<_>) =
            replicas.iter().partition(|replica| replica.record().is_ejected());
        let tallies: Vec<Tally> = present.iter().map(|replica| replica.record().take()).collect();
        let most = (self.config.max_ejected_share * replicas.len() as f64) as usize;
        let found = outliers(&tallies, &self.config);
        let (out, spared) = found.split_at(found.len().min(most.saturating_sub(ejected.len())));
        for (place, replica) in present.into_iter().enumerate() {
            if out.contains(&place) {
                replica.eject(&self.config, tallies[place].failing());
            } else if !spared.contains(&place) {
                replica.record().passes();
            }
        }
    }

    fn is_due(&self) -> bool {
        let (mut next, now) = (self.next.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let due = now >= *next;
        if due {
            *next = now + self.config.interval;
        }
        due
    }
}

/// The places of those that fail more often than all others together, the worst first.
fn outliers(tallies: &[Tally], config: &OutlierConfig) -> Vec<usize> {
    let judged: Vec<(usize, Tally)> =
        tallies.iter().copied().enumerate().filter(|(_, tally)| tally.calls >= config.min_calls).collect();
    let sum = judged.iter().fold(Tally::default(), |sum, (_, one)| Tally {
        calls: sum.calls.saturating_add(one.calls),
        failures: sum.failures.saturating_add(one.failures),
    });
    let excess = |one: Tally| {
        let others = Tally { calls: sum.calls - one.calls, failures: sum.failures - one.failures };
        (others.calls > 0).then(|| one.failing() - others.failing())
    };
    let mut found: Vec<(f64, usize)> = judged
        .into_iter()
        .filter_map(|(place, one)| Some((excess(one)?, place)))
        .filter(|(excess, _)| *excess > config.margin)
        .collect();
    found.sort_by(|one, other| other.0.total_cmp(&one.0));
    found.into_iter().map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tallies: &[(u32, u32)]) -> Vec<usize> {
        let tallies: Vec<_> = tallies.iter().map(|&(calls, failures)| Tally { calls, failures }).collect();
        outliers(&tallies, &OutlierConfig::default())
    }

    #[test]
    fn one_that_fails_more_often_than_the_others_is_found_even_among_two() {
        assert_eq!(found(&[(100, 50), (100, 1)]), [0]);
        assert_eq!(found(&[(100, 0), (100, 1), (40, 12)]), [2]);
        assert_eq!(
            found(&[(100, 40), (100, 0), (100, 90), (100, 0)]),
            [2],
            "40 % is less than the rest's 30 % + 20 %"
        );
        assert_eq!(found(&[(100, 60), (100, 0), (100, 90), (100, 0)]), [2, 0], "the worst first");
    }

    #[test]
    fn what_fails_everywhere_or_was_hardly_tried_is_nobodys_fault() {
        assert!(found(&[(100, 50), (100, 55)]).is_empty());
        assert!(found(&[(100, 20), (100, 0)]).is_empty(), "the margin is not passed");
        assert!(found(&[(19, 19), (100, 0)]).is_empty(), "too few calls");
        assert!(found(&[(100, 100), (19, 0)]).is_empty(), "nobody to compare with");
        assert!(found(&[(100, 100)]).is_empty());
        assert!(found(&[]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn each_ejection_in_succession_is_twice_as_long_up_to_the_limit() {
        let (record, config) = (Record::default(), OutlierConfig::default());
        for expected in [30, 60, 120, 240, 300, 300] {
            assert_eq!(record.eject(&config), Duration::from_secs(expected));
            assert!(record.is_ejected() && !record.returns());
            record.count(Code::Internal);
            tokio::time::advance(Duration::from_secs(expected)).await;
            assert!(record.returns() && !record.is_ejected());
            assert_eq!(record.take(), Tally::default(), "what ended meanwhile does not count");
        }
        (0..6).for_each(|_| record.passes());
        assert_eq!(record.eject(&config), Duration::from_secs(30));
    }
}
