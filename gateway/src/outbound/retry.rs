//! When a call is made again: only after `UNAVAILABLE`, only before its first message, never beyond the deadline, and
//! never more often than the budget has earned, so that retries cannot double the load on a service that is in trouble.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::time::sleep;
use tonic::Status;
use tonic_types::StatusExt as _;
use weft_runtime::{Deadline, status::is_retryable};

use crate::config;

/// One service's retries. Shared by all calls to it.
#[derive(Debug)]
pub(crate) struct Retry {
    config: config::Retry,
    budget: Budget,
    count: Counter,
}

impl Retry {
    pub(crate) fn new(config: config::Retry, count: Counter) -> Self {
        Self { budget: Budget::new(&config), config, count }
    }

    /// Calls `attempt` until it succeeds, fails for good, or may not be tried again. The last failure is returned.
    pub(crate) async fn run<T, Fut>(
        &self,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        self.budget.earn();
        let mut attempts = 1;
        loop {
            let status = match attempt().await {
                Ok(done) => return Ok(done),
                Err(status) => status,
            };
            let Some(pause) = self.pause(&status, attempts, deadline) else { return Err(status) };
            self.count.inc();
            sleep(pause).await;
            attempts += 1;
        }
    }

    /// How long to wait before another attempt, or `None` if there may be none.
    fn pause(&self, status: &Status, attempts: u32, deadline: Option<Deadline>) -> Option<Duration> {
        if !is_retryable(status) || attempts >= self.config.max_attempts {
            return None;
        }
        let backoff = self.config.first_pause * 2_u32.pow(attempts - 1);
        // Half of it is chance, so that callers who failed together do not return together.
        let pause = backoff.mul_f64(rand::random_range(0.5..=1.0));
        // A service that says when to come back is believed; if that is longer than we would wait, the caller decides.
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        if asked.is_some_and(|asked| asked > backoff) {
            return None;
        }
        let in_time = deadline.is_none_or(|deadline| deadline.remaining().is_some_and(|left| left > pause));
        (in_time && self.budget.spend()).then_some(pause)
    }
}

/// Retries that may still be made, in thousandths of one.
#[derive(Debug)]
struct Budget {
    left: AtomicI64,
    most: i64,
    earned_by_call: i64,
}

const ONE: i64 = 1_000;

impl Budget {
    #[expect(clippy::cast_possible_truncation, reason = "the ratio is between 0 and 1")]
    fn new(config: &config::Retry) -> Self {
        let most = i64::from(config.budget_reserve) * ONE;
        Self { left: AtomicI64::new(most), most, earned_by_call: (config.budget_ratio * ONE as f64) as i64 }
    }

    fn earn(&self) {
        let earned = |left: i64| Some((left + self.earned_by_call).min(self.most));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    fn spend(&self) -> bool {
        let spent = |left: i64| (left >= ONE).then_some(left - ONE);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}
