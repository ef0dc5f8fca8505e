//! What one request took, and what all of them took.

use std::{collections::BTreeMap, time::Duration};

use futures::{Stream, StreamExt as _};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::target::Tick;
use crate::grpc::Refusal;

/// What one request took. Times count from the moment at which it should have been sent.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// How it ended: `OK`, or the code of its refusal.
    pub(crate) code: &'static str,
    /// What its refusal said.
    pub(crate) why: Option<String>,
    /// Until its first text or token.
    pub(crate) first: Option<Duration>,
    /// Between one message with text or tokens and the next.
    pub(crate) gaps: Vec<Duration>,
    /// Until its end.
    pub(crate) total: Duration,
    /// Tokens of its prompt.
    pub(crate) prompt_tokens: u32,
    /// Tokens generated.
    pub(crate) completion_tokens: u32,
    /// Its trace, if it is recorded.
    pub(crate) trace: Option<String>,
}

/// The code of a request whose stream ended without saying that it was finished.
const CUT: &str = "CUT_SHORT";

impl Sample {
    /// A request that was refused.
    pub(crate) fn refused(refusal: &Refusal, intended: Instant) -> Self {
        Self { why: Some(refusal.message().to_owned()), ..Self::unanswered(refusal.code(), intended) }
    }

    /// A request that nobody has answered, or that has only begun.
    pub(crate) fn unanswered(code: &'static str, intended: Instant) -> Self {
        Self {
            code,
            why: None,
            first: None,
            gaps: Vec::new(),
            total: intended.elapsed(),
            prompt_tokens: 0,
            completion_tokens: 0,
            trace: None,
        }
    }

    /// Listens to an answer to its end.
    pub(crate) async fn listen(
        mut ticks: impl Stream<Item = Result<Tick, Refusal>> + Unpin,
        intended: Instant,
    ) -> Self {
        let mut sample = Self::unanswered(CUT, intended);
        let mut last: Option<Instant> = None;
        while let Some(tick) = ticks.next().await {
            match tick {
                Ok(Tick::Output) => {
                    let now = Instant::now();
                    sample.first.get_or_insert(now - intended);
                    sample.gaps.extend(last.map(|last| now - last));
                    last = Some(now);
                }
                Ok(Tick::Finished { prompt_tokens, completion_tokens }) => {
                    sample.code = "OK";
                    (sample.prompt_tokens, sample.completion_tokens) = (prompt_tokens, completion_tokens);
                }
                Err(refusal) => {
                    sample.code = refusal.code();
                    sample.why = Some(refusal.message().to_owned());
                }
            }
        }
        sample.total = intended.elapsed();
        sample
    }

    /// Time per token after the first; `None` for answers that have no second one.
    pub(crate) fn per_token(&self) -> Option<Duration> {
        let after_first = self.completion_tokens.checked_sub(1).filter(|count| *count > 0)?;
        let spread: Duration = self.gaps.iter().sum();
        Some(spread / after_first)
    }
}

/// A distribution of times.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

/// Microseconds up to an hour, to three digits: less than a megabyte, whatever is recorded.
const MOST_MICROS: u64 = 3_600_000_000;

impl Times {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, MOST_MICROS, 3)?))
    }

    fn record(&mut self, time: Duration) {
        // Beyond an hour is an hour: such a request is broken, not slow.
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(MOST_MICROS));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Their mean, in milliseconds.
    pub(crate) fn mean_ms(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// The time that this share of them (0 to 1) does not exceed, in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "an hour in microseconds fits")]
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }
}

/// What all requests took.
#[derive(Clone, Debug)]
pub(crate) struct Measurements {
    /// Requests by how they ended.
    pub(crate) by_code: BTreeMap<&'static str, u64>,
    /// What the first refusal of each code said.
    pub(crate) reasons: BTreeMap<&'static str, String>,
    /// Tokens of all prompts that were answered.
    pub(crate) prompt_tokens: u64,
    /// Tokens of all answers.
    pub(crate) completion_tokens: u64,
    /// Until the first text or token.
    pub(crate) first: Times,
    /// Between one message with text or tokens and the next.
    pub(crate) gap: Times,
    /// Per token after the first.
    pub(crate) per_token: Times,
    /// Until the end.
    pub(crate) total: Times,
    /// The slowest request and its trace, if traces were recorded.
    pub(crate) slowest: Option<(Duration, String)>,
}

impl Measurements {
    /// None yet.
    ///
    /// # Errors
    /// There is no memory for the distributions.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            by_code: BTreeMap::new(),
            reasons: BTreeMap::new(),
            prompt_tokens: 0,
            completion_tokens: 0,
            first: Times::new()?,
            gap: Times::new()?,
            per_token: Times::new()?,
            total: Times::new()?,
            slowest: None,
        })
    }

    /// Adds a request. Only those that were answered to the end count for the times.
    pub(crate) fn add(&mut self, sample: Sample) {
        *self.by_code.entry(sample.code).or_default() += 1;
        if let Some(why) = &sample.why {
            self.reasons.entry(sample.code).or_insert_with(|| why.clone());
        }
        if sample.code != "OK" {
            return;
        }
        self.prompt_tokens += u64::from(sample.prompt_tokens);
        self.completion_tokens += u64::from(sample.completion_tokens);
        sample.first.into_iter().for_each(|time| self.first.record(time));
        sample.gaps.iter().for_each(|time| self.gap.record(*time));
        sample.per_token().into_iter().for_each(|time| self.per_token.record(time));
        self.total.record(sample.total);
        if let Some(trace) = sample.trace
            && self.slowest.as_ref().is_none_or(|(slowest, _)| *slowest < sample.total)
        {
            self.slowest = Some((sample.total, trace));
        }
    }

    /// Requests that were answered to the end.
    pub(crate) fn succeeded(&self) -> u64 {
        self.by_code.get("OK").copied().unwrap_or(0)
    }

    /// All requests.
    pub(crate) fn requests(&self) -> u64 {
        self.by_code.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::time::sleep;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two tokens, 10 ms apart, after 30 ms.
    fn answer() -> impl Stream<Item = Result<Tick, Refusal>> + Unpin {
        let ticks = [
            (30, Tick::Output),
            (10, Tick::Output),
            (5, Tick::Finished { prompt_tokens: 7, completion_tokens: 2 }),
        ];
        Box::pin(stream::iter(ticks).then(|(wait, tick)| async move {
            sleep(ms(wait)).await;
            Ok(tick)
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_sent_late_took_the_time_that_it_waited() {
        let intended = Instant::now();
        sleep(ms(100)).await;
        let sample = Sample::listen(answer(), intended).await;
        assert_eq!((sample.first, sample.total), (Some(ms(130)), ms(145)));
        assert_eq!((sample.gaps.as_slice(), sample.per_token()), (&[ms(10)][..], Some(ms(10))));
        assert_eq!(sample.code, "OK");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_finish_is_not_counted_as_answered() {
        let sample = Sample::listen(answer().take(2), Instant::now()).await;
        let mut all = Measurements::new().unwrap();
        all.add(sample);
        assert_eq!((all.succeeded(), all.requests(), all.total.count()), (0, 1, 0));
        assert_eq!(all.by_code[CUT], 1);
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut times = Times::new().unwrap();
        (1..=100).for_each(|n| times.record(ms(n)));
        for (share, wanted) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = times.quantile_ms(share);
            assert!((found - wanted).abs() / wanted < 0.002, "{share}: {found}");
        }
        times.record(Duration::from_secs(7200));
        assert!(times.quantile_ms(1.0) <= 3_601_000.0);
    }
}
