//! Where a request's time went.
//!
//! Stages overlap: inference begins before the prompt is screened, and while an answer flows all stages work at once. So
//! their own durations do not add up to anything. What is kept here does: at every moment between a request's arrival and
//! the end of its answer exactly one [`Phase`] is what the caller is being kept waiting by, and each phase is charged for
//! its moments. The sum is the whole time, to the nanosecond.
//!
//! Who is waited for: until the prompt is encoded, the tokenizer; from then until the verdict, the filter, whatever
//! inference has done meanwhile; then inference, until its first token: of that time the last part is prefill and the part
//! before it its queue, as inference says, and what is left the way there and back. While the answer flows, whoever has
//! the oldest piece: the filter, else the tokenizer, else inference's next token; that one is `hold` instead of `decode`
//! as long as there is text that the filter does not release and none has left yet. While a piece is ready and nobody
//! takes it, the caller.
//!
//! Map: `layer` (from arrival to trailers, which tell the caller), `progress` (who has the oldest piece).

mod layer;
mod metrics;
mod progress;

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub(crate) use self::{
    layer::{LatencyLayer, SERVER_TIMING, Timed},
    metrics::LatencyMetrics,
    progress::{Progress, Underway},
};

/// What a caller can be kept waiting by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Phase {
    /// Our own work.
    Gateway,
    /// Room to be let in.
    Admission,
    /// Ids of the prompt, or text of the answer.
    Tokenizer,
    /// A verdict on the prompt, or on a piece of the answer.
    Screening,
    /// A place in inference's batch.
    Queue,
    /// The prompt's way through the model.
    Prefill,
    /// The next token.
    Decode,
    /// The next token, because the filter cannot release the text of those before it.
    Hold,
    /// The way to inference and back, before the first token.
    Network,
    /// The caller itself, who has not taken what is there.
    Client,
}

impl Phase {
    /// All of them, in the order in which they are told.
    pub(crate) const ALL: [Self; 10] = [
        Self::Gateway,
        Self::Admission,
        Self::Tokenizer,
        Self::Screening,
        Self::Queue,
        Self::Prefill,
        Self::Decode,
        Self::Hold,
        Self::Network,
        Self::Client,
    ];

    /// Its name in trailers, spans and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Admission => "admission",
            Self::Tokenizer => "tokenizer",
            Self::Screening => "screening",
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Hold => "hold",
            Self::Network => "network",
            Self::Client => "client",
        }
    }
}

/// One request's time. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    spent: Spent,
    phase: Phase,
    since: Instant,
    /// Whether the pipeline has worked on it: other calls are not counted.
    worked_on: bool,
}

/// What each phase took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    phases: [Duration; Phase::ALL.len()],
}

impl Latency {
    /// Of a request that arrives now.
    pub(crate) fn begin() -> Self {
        let spent = Spent::default();
        let inner = Inner { spent, phase: Phase::Gateway, since: Instant::now(), worked_on: false };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// That of a request which came through [`LatencyLayer`]; else one that begins now.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_else(Self::begin)
    }

    /// From now on this is waited for.
    pub(crate) fn enter(&self, phase: Phase) {
        self.lock().enter(phase);
    }

    /// The pipeline works on it.
    pub(crate) fn is_worked_on(&self) {
        self.lock().worked_on = true;
    }

    /// Inference, which was waited for until now, says how long its queue and the prompt took.
    pub(crate) fn started(&self, queue: Duration, prefill: Duration) {
        let mut inner = self.lock();
        let waited = inner.since.elapsed();
        inner.enter(Phase::Gateway);
        // From the end: what was over before we began to wait kept nobody waiting.
        let prefill = prefill.min(waited);
        let queue = queue.min(waited - prefill);
        inner.spent.move_from(Phase::Network, Phase::Prefill, prefill);
        inner.spent.move_from(Phase::Network, Phase::Queue, queue);
    }

    /// What was spent until now.
    pub(crate) fn spent(&self) -> Spent {
        let mut inner = self.lock();
        let phase = inner.phase;
        inner.enter(phase);
        inner.spent
    }

    fn was_worked_on(&self) -> bool {
        self.lock().worked_on
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        self.spent.phases[self.phase as usize] += now - self.since;
        self.since = now;
        self.phase = phase;
    }
}

impl Spent {
    /// What a phase took.
    pub(crate) fn of(&self, phase: Phase) -> Duration {
        self.phases[phase as usize]
    }

    /// All of it.
    pub(crate) fn total(&self) -> Duration {
        self.phases.iter().sum()
    }

    /// As `server-timing` says it: `queue;dur=1.250, …, total;dur=97.003`, in milliseconds.
    pub(crate) fn server_timing(&self) -> String {
        let mut text = String::new();
        for phase in Phase::ALL {
            let _ = write!(text, "{};dur={:.3}, ", phase.name(), self.of(phase).as_secs_f64() * 1e3);
        }
        let _ = write!(text, "total;dur={:.3}", self.total().as_secs_f64() * 1e3);
        text
    }

    /// Charges another phase for so much of what one was charged for. Of a request with several prompts each waits by itself,
    /// but a moment passes only once.
    fn move_from(&mut self, from: Phase, to: Phase, time: Duration) {
        let time = time.min(self.phases[from as usize]);
        self.phases[from as usize] -= time;
        self.phases[to as usize] += time;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn every_moment_is_charged_to_exactly_one_phase() {
        let latency = Latency::begin();
        for phase in Phase::ALL {
            latency.enter(phase);
            advance(MS * (phase as u32 + 1)).await;
        }
        let spent = latency.spent();
        assert!(Phase::ALL.iter().all(|phase| spent.of(*phase) == MS * (*phase as u32 + 1)), "{spent:?}");
        assert_eq!(spent.total(), 55 * MS);
        assert!(spent.server_timing().starts_with("gateway;dur=1.000, admission;dur=2.000, "));
        assert!(spent.server_timing().ends_with(", total;dur=55.000"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_inferences_time_only_what_was_waited_for_is_charged_and_the_rest_is_the_way() {
        for (queue, prefill, expected) in
            [(10, 20, (10, 20, 20)), (100, 30, (20, 30, 0)), (7, 90, (0, 50, 0))]
        {
            let latency = Latency::begin();
            latency.enter(Phase::Network);
            advance(50 * MS).await;
            latency.started(queue * MS, prefill * MS);
            advance(3 * MS).await;
            let spent = latency.spent();
            let found = [Phase::Queue, Phase::Prefill, Phase::Network].map(|phase| spent.of(phase));
            assert_eq!(found, [expected.0 * MS, expected.1 * MS, expected.2 * MS]);
            assert_eq!(spent.total(), 53 * MS);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_that_begins_while_another_is_answered_is_charged_no_moment_twice() {
        let latency = Latency::begin();
        latency.enter(Phase::Network);
        advance(10 * MS).await;
        latency.started(Duration::ZERO, 5 * MS);
        latency.enter(Phase::Decode);
        advance(50 * MS).await;
        latency.started(20 * MS, 40 * MS);
        let spent = latency.spent();
        assert_eq!((spent.of(Phase::Prefill), spent.of(Phase::Network)), (10 * MS, Duration::ZERO));
        assert_eq!(spent.total(), 60 * MS);
    }
}
