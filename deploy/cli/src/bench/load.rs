//! Keeps requests in flight: a fixed number of them (closed loop), or as they arrive (open loop).
//!
//! Everything happens in one task: no thread of its own, no channel, one timer. The cores are the server's.

use std::time::Duration;

use futures::{StreamExt as _, stream, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    measure::{Measurements, Sample},
    target::{Prompt, Target},
};
use crate::{
    grpc::{Call, Generation},
    trace_context::TraceContext,
};

/// What every request has in common.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Whom to ask.
    pub(crate) target: Target,
    /// How tokens are chosen and when to stop.
    pub(crate) generation: Generation,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// Whether to record a trace of every request.
    pub(crate) traced: bool,
}

impl Load {
    /// Closed loop: keeps `concurrency` requests in flight until all prompts are asked. `tell` hears how many are done.
    ///
    /// # Errors
    /// There is no memory for the distributions.
    pub(crate) async fn closed(
        &self,
        prompts: Vec<Prompt>,
        concurrency: usize,
        mut tell: impl FnMut(usize),
    ) -> anyhow::Result<Measurements> {
        let mut measurements = Measurements::new()?;
        let requests = stream::iter(prompts).map(|prompt| async { self.one(prompt, Instant::now()).await });
        let mut done = 0;
        let mut samples = requests.buffer_unordered(concurrency);
        while let Some(sample) = samples.next().await {
            measurements.add(sample);
            done += 1;
            tell(done);
        }
        Ok(measurements)
    }

    /// Open loop: sends each prompt at its time, however many are in flight. `tell` hears how many are done.
    ///
    /// # Errors
    /// There is no memory for the distributions.
    pub(crate) async fn open(
        &self,
        arrivals: Vec<(Duration, Prompt)>,
        mut tell: impl FnMut(usize),
    ) -> anyhow::Result<Measurements> {
        let mut measurements = Measurements::new()?;
        let start = Instant::now();
        let mut arrivals = arrivals.into_iter().map(|(at, prompt)| (start + at, prompt)).peekable();
        let mut in_flight = FuturesUnordered::new();
        let mut done = 0;
        loop {
            let next = arrivals.peek().map(|(at, _)| *at);
            tokio::select! {
                () = tokio::time::sleep_until(next.unwrap_or(start)), if next.is_some() => {
                    in_flight.extend(arrivals.next().map(|(at, prompt)| self.one(prompt, at)));
                }
                Some(sample) = in_flight.next() => {
                    measurements.add(sample);
                    done += 1;
                    tell(done);
                }
                else => return Ok(measurements),
            }
        }
    }

    /// One request. A stream that stands still is given up at the time limit: the server's own limit should have ended
    /// it before.
    async fn one(&self, prompt: Prompt, intended: Instant) -> Sample {
        let trace = TraceContext::random(self.traced);
        let call = Call { trace: Some(trace), timeout: Some(self.timeout) };
        let answer = async {
            match self.target.ask(prompt, &self.generation, call).await {
                Ok(ticks) => Sample::listen(ticks, intended).await,
                Err(refusal) => Sample::refused(&refusal, intended),
            }
        };
        let limit = self.timeout + GRACE;
        let sample = tokio::time::timeout(limit, answer).await;
        let sample = sample.unwrap_or_else(|_| Sample::unanswered("NO_ANSWER", intended));
        Sample { trace: self.traced.then(|| trace.trace_id()), ..sample }
    }
}

/// How much later than the server this program gives up.
const GRACE: Duration = Duration::from_secs(5);
