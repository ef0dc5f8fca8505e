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
use weft_runtime::{
    Deadline,
    client::Tried,
    status::{is_retryable, reason},
};

use super::hedge::Hedge;
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
        Self { budget: Budget::new(config.budget_ratio, config.budget_reserve), config, count }
    }

    /// Calls `attempt` until it succeeds, fails for good, or may not be tried again. The last failure is returned. All
    /// attempts are given the same memory of who was tried.
    pub(crate) async fn run<T, Fut>(
        &self,
        deadline: Option<Deadline>,
        attempt: impl Fn(Tried) -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        let tried = Tried::default();
        self.run_or(deadline, |_| false, || attempt(tried.clone())).await
    }

    /// The same for a short call that changes nothing: one that takes unusually long is made twice.
    pub(crate) async fn run_hedged<T, Fut>(
        &self,
        hedge: &Hedge,
        deadline: Option<Deadline>,
        attempt: impl Fn(Tried) -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        self.run(deadline, |tried| hedge.run(tried, || self.budget.spend(), &attempt)).await
    }

    /// The same, where `elsewhere` may pay for another attempt from a budget of its own.
    pub(crate) async fn run_or<T, Fut>(
        &self,
        deadline: Option<Deadline>,
        elsewhere: impl Fn(&Status) -> bool,
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
            let Some(pause) = self.pause(&status, attempts, deadline, &elsewhere) else { return Err(status) };
            self.count.inc();
            sleep(pause).await;
            attempts += 1;
        }
    }

    /// How long to wait before another attempt, or `None` if there may be none.
    fn pause(
        &self,
        status: &Status,
        attempts: u32,
        deadline: Option<Deadline>,
        elsewhere: impl Fn(&Status) -> bool,
    ) -> Option<Duration> {
        if !is_retryable(status) || attempts >= self.config.max_attempts {
            return None;
        }
        let backoff = self.config.first_pause * 2_u32.pow(attempts - 1);
        // Half of it is chance, so that callers who failed together do not return together.
        let pause = backoff.mul_f64(rand::random_range(0.5..=1.0));
        // A service that says when to come back is believed; if that is longer than we would wait, the caller decides.
        if asked_to_wait(status).is_some_and(|asked| asked > backoff) {
            return None;
        }
        let in_time = deadline.is_none_or(|deadline| deadline.remaining().is_some_and(|left| left > pause));
        (in_time && (elsewhere(status) || self.budget.spend())).then_some(pause)
    }
}

/// How long a service wants to be left alone. A process that is still starting says so of itself only: there may be another
/// replica, and in a rolling restart there is.
pub(super) fn asked_to_wait(status: &Status) -> Option<Duration> {
    let starts = status.get_details_error_info().is_some_and(|info| info.reason == reason::STARTING);
    status.get_details_retry_info()?.retry_delay.filter(|_| !starts)
}

/// Calls that may still be made again, in thousandths of one.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicI64,
    most: i64,
    earned_by_call: i64,
}

const ONE: i64 = 1_000;

impl Budget {
    #[expect(clippy::cast_possible_truncation, reason = "the ratio is between 0 and 1")]
    pub(super) fn new(ratio: f64, reserve: u32) -> Self {
        let most = i64::from(reserve) * ONE;
        Self { left: AtomicI64::new(most), most, earned_by_call: (ratio * ONE as f64) as i64 }
    }

    pub(super) fn earn(&self) {
        let earned = |left: i64| Some((left + self.earned_by_call).min(self.most));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    pub(super) fn spend(&self) -> bool {
        let spent = |left: i64| (left >= ONE).then_some(left - ONE);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}
