//! When a stream whose replica is lost goes on at another: only after what the loss of a replica can cause, only
//! where there is another, so often and so long as the configuration allows, and within a budget of its own.
//!
//! The budget is not that of retries: the loss of one replica ends all its streams at once, and each of them must be
//! able to go on. What it bounds is how often that may happen. That one request brings down replica after replica is
//! bounded by how often a stream may go on.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use weft_runtime::{
    Deadline,
    client::{Fitness, Pool, ReplicaId},
    status::is_retryable,
};

use super::retry::{Budget, asked_to_wait};
use crate::{
    config,
    metrics::{Resumptions, resumptions::Outcome},
};

/// The pause behind the first attempt that fails, and the longest. Each doubles.
const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// The resumptions of all streams through one service.
#[derive(Debug)]
pub(crate) struct Resume {
    config: config::Resume,
    pool: Pool,
    budget: Budget,
    metrics: Resumptions,
}

impl Resume {
    pub(super) fn new(config: config::Resume, pool: Pool, metrics: Resumptions) -> Self {
        let budget = Budget::new(config.budget_ratio, config.budget_reserve);
        Self { config, pool, budget, metrics }
    }

    /// So many answers have begun, and each earns its part of the budget.
    pub(super) fn begun(&self, answers: u32) {
        (0..answers).for_each(|_| self.budget.earn());
    }

    /// Whether an answer that ended with this status, and has gone on `resumed` times, may go on elsewhere.
    pub(super) fn allows(&self, status: &Status, resumed: u32, lost: Option<ReplicaId>) -> bool {
        if !is_retryable(status) {
            return false;
        }
        let may = self.config.enabled
            && resumed < self.config.max_per_answer
            && self.has_other(lost)
            && self.budget.spend();
        if !may {
            self.metrics.count(Outcome::Refused);
        }
        may
    }

    /// Whether a call that had not begun may be made again on this budget: its replica was lost, and did not merely
    /// refuse it, and there is another.
    pub(super) fn rescues(&self, status: &Status) -> bool {
        let refused = asked_to_wait(status).is_some();
        self.config.enabled && !refused && self.has_other(None) && self.budget.spend()
    }

    /// Calls `open` until a replica goes on, one fails for good, or the patience is over. `loss` is why; what another
    /// replica has against the answer is not its caller's fault, so then the caller is told of the loss.
    pub(super) async fn run<T, Fut>(
        &self,
        loss: Status,
        deadline: Option<Deadline>,
        mut open: impl FnMut() -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        let (lost, mut backoff) = (Instant::now(), PAUSES.0);
        loop {
            let status = match open().await {
                Ok(opened) => {
                    self.metrics.count(Outcome::Resumed);
                    self.metrics.pause.observe(lost.elapsed().as_secs_f64());
                    return Ok(opened);
                }
                Err(status) => status,
            };
            let Some(pause) = self.pause(&status, backoff, lost, deadline) else {
                self.metrics.count(Outcome::Failed);
                tracing::warn!(why = status.message(), "no replica goes on with an answer");
                let tells = is_retryable(&status) || status.code() == Code::DeadlineExceeded;
                return Err(if tells { status } else { loss });
            };
            sleep(pause).await;
            backoff = (backoff * 2).min(PAUSES.1);
        }
    }

    /// How long to wait before the next attempt, or `None` if there may be none.
    fn pause(
        &self,
        status: &Status,
        backoff: Duration,
        lost: Instant,
        deadline: Option<Deadline>,
    ) -> Option<Duration> {
        let pause = backoff.max(asked_to_wait(status).unwrap_or_default());
        let in_time = deadline.is_none_or(|deadline| deadline.remaining().is_some_and(|left| left > pause));
        let patient = lost.elapsed() + pause <= self.config.patience;
        (is_retryable(status) && in_time && patient).then_some(pause)
    }

    /// Whether there is a replica beside the lost one that could be asked.
    fn has_other(&self, lost: Option<ReplicaId>) -> bool {
        let mut usable =
            self.pool.replicas().into_iter().filter(|replica| replica.fitness() != Fitness::Foreign);
        match lost {
            Some(lost) => usable.any(|replica| replica.id() != lost),
            None => usable.count() > 1,
        }
    }
}
