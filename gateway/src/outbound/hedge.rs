//! A second copy of a call that takes unusually long, at another replica; whoever answers first is believed.
//!
//! Only for calls that are short and change nothing: encoding, screening and embedding. Unusual is measured: longer than
//! all but a few of the last calls. A copy is paid for by the budget of retries, so a service that is slow because it has
//! too much to do gets little more of it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::{Either, select};
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, timeout};
use tonic::Status;
use weft_runtime::client::{Fitness, Pool, Tried};

use crate::config;

/// The copies of one service's calls.
#[derive(Debug)]
pub(crate) struct Hedge {
    config: config::Hedge,
    pool: Pool,
    pace: Mutex<Pace>,
    count: Counter,
}

/// How long calls took. The last full window says what is usual, while a new one is being filled.
#[derive(Debug, Default)]
struct Pace {
    filling: Vec<Duration>,
    usual: Option<Duration>,
}

impl Hedge {
    pub(super) fn new(config: config::Hedge, pool: Pool, count: Counter) -> Self {
        Self { config, pool, pace: Mutex::default(), count }
    }

    /// Calls `attempt`, and where that takes long and `may` pays for it, once more beside it, elsewhere than `tried`.
    pub(super) async fn run<T, Fut>(
        &self,
        tried: Tried,
        may: impl FnOnce() -> bool,
        attempt: impl Fn(Tried) -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut first = Box::pin(self.timed(attempt(tried.clone())));
        let Some(delay) = self.delay() else { return first.await };
        if let Ok(done) = timeout(delay, &mut first).await {
            return done;
        }
        if !may() {
            return first.await;
        }
        self.count.inc();
        let second = Box::pin(self.timed(attempt(tried)));
        // One that fails says nothing about the other.
        match select(first, second).await {
            Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
            Either::Left((done, _)) | Either::Right((done, _)) => done,
        }
    }

    /// How long to wait before a call is made twice; `None` where it is not.
    fn delay(&self) -> Option<Duration> {
        let several =
            || self.pool.replicas().iter().filter(|replica| replica.fitness() == Fitness::Fit).count() > 1;
        if !self.config.enabled || !several() {
            return None;
        }
        self.pace().usual.map(|usual| usual.max(self.config.min_delay))
    }

    async fn timed<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let began = Instant::now();
        let done = call.await;
        if done.is_ok() {
            self.pace().note(began.elapsed(), &self.config);
        }
        done
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pace {
    fn note(&mut self, took: Duration, config: &config::Hedge) {
        self.filling.push(took);
        let count = self.filling.len();
        if count >= config.window {
            let place = (config.quantile * count as f64) as usize;
            let (_, usual, _) = self.filling.select_nth_unstable(place.min(count - 1));
            self.usual = Some(*usual);
            self.filling.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::time::sleep;
    use weft_runtime::{
        Process, RuntimeConfig,
        client::{ClientConfig, Members, Target, TwoChoices},
    };

    use super::*;

    const USUAL: Duration = Duration::from_millis(40);

    /// Over so many replicas that are well, with a full window of calls that took as long as usual.
    async fn hedge(replicas: u16) -> Hedge {
        let context = Process::new("gateway", RuntimeConfig::default()).context().clone();
        let target = |port| Target::Uri(format!("http://127.0.0.1:{port}").parse().unwrap());
        let members = Members::Fixed((1..=replicas).map(target).collect());
        let policy = Arc::<TwoChoices>::default();
        let pool = Pool::new(&context, "tokenizer", members, &ClientConfig::default(), policy).unwrap();
        for replica in pool.replicas() {
            pool.set_fitness(&replica, Fitness::Fit);
        }
        let hedge = Hedge::new(weft_runtime::config::parse("", &[]).unwrap(), pool, Counter::default());
        for _ in 0..hedge.config.window {
            hedge.run(Tried::default(), || false, |_| taking(USUAL)).await.unwrap();
        }
        hedge
    }

    async fn taking(time: Duration) -> Result<Duration, Status> {
        sleep(time).await;
        Ok(time)
    }

    /// A first attempt that takes for ever, and one more.
    async fn stuck(hedge: &Hedge, may: bool) -> Duration {
        let (attempts, began) = (AtomicU32::new(0), Instant::now());
        let attempt = |_| match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => taking(Duration::from_secs(30)),
            _ => taking(Duration::from_millis(1)),
        };
        hedge.run(Tried::default(), || may, attempt).await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_unusually_long_is_made_twice_and_the_first_answer_counts() {
        let hedge = hedge(2).await;
        let took = stuck(&hedge, true).await;
        assert!(took >= USUAL && took < USUAL * 2, "{took:?}");
        assert_eq!(hedge.count.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_budget_or_another_replica_it_is_made_once() {
        assert_eq!(stuck(&hedge(2).await, false).await, Duration::from_secs(30));
        assert_eq!(stuck(&hedge(1).await, true).await, Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_fails_does_not_fail_the_call() {
        let (hedge, attempts) = (hedge(2).await, AtomicU32::new(0));
        let attempt = |_| {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            async move {
                match attempt {
                    0 => taking(USUAL * 3).await,
                    _ => Err(Status::unavailable("down")),
                }
            }
        };
        assert_eq!(hedge.run(Tried::default(), || true, attempt).await.unwrap(), USUAL * 3);
    }
}
