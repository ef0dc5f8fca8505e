//! The async door to the engine.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use weft_runtime::drain::{Drain, Phase};

use super::{
    inbox::{self, Command},
    outbox::{AbortOnDrop, Generation, channel_for},
    places::{Full, Place, Places},
    sharing::Sharing,
    status::EngineStatus,
    timeline::Timeline,
    work::{Answer, Embedding, Work},
};
use crate::{
    adapters::Lease,
    error::EngineError,
    metrics::{EngineMetrics, Outcome},
    request::{Generate, Inputs},
    sequence::{Goal, Rank, Sequence, Tenant},
};

/// The shortest and the longest time after which a refused caller is told to come back.
const RETRY_AFTER: std::ops::RangeInclusive<std::time::Duration> =
    std::time::Duration::from_millis(50)..=std::time::Duration::from_secs(10);

/// The async door to an engine. Cheap to clone. The engine ends when the last is gone.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    door: Arc<Door>,
}

/// What all handles share.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) inbox: inbox::Sender,
    pub(super) sent: AtomicU64,
    pub(super) arrivals: AtomicU64,
    pub(super) places: Arc<Places>,
    pub(super) sharing: Sharing,
    pub(super) status: watch::Receiver<EngineStatus>,
    pub(super) metrics: EngineMetrics,
    pub(super) drain: Drain,
}

/// Where the answer to one input goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// One input that is answered as a whole.
pub(super) struct Pending {
    pub(super) input: Vec<u32>,
    pub(super) goal: Goal,
    pub(super) adapter: Option<Lease>,
    /// See [`Sequence::prompt_top`].
    pub(super) prompt_top: Option<usize>,
    pub(super) answer: Answer,
}

/// The answers to come. Dropping them is cancelling.
pub(super) struct Replies<T>(Vec<(oneshot::Receiver<Result<T, EngineError>>, AbortOnDrop)>);

impl<T> Replies<T> {
    /// All of them, in the order of the inputs, or the first failure.
    pub(super) async fn all(self) -> Result<Vec<T>, EngineError> {
        let mut answers = Vec::with_capacity(self.0.len());
        for (reply, _abort) in self.0 {
            // The sender is dropped unanswered only with the engine.
            answers.push(reply.await.unwrap_or(Err(EngineError::Gone))?);
        }
        Ok(answers)
    }
}

impl EngineHandle {
    pub(super) fn new(door: Door) -> Self {
        Self { door: Arc::new(door) }
    }

    /// Starts a generation, in the current span. Each continuation takes a place and is a sequence like any other; what
    /// they share of the prompt's blocks is computed once.
    ///
    /// # Errors
    /// No place is free, or the process is about to stop. All else arrives in the stream.
    pub fn generate(&self, request: Generate, deadline: Option<Instant>) -> Result<Generation, EngineError> {
        let mut places = self.door.place(request.continuations, &request.tenant)?;
        let root = self.door.sharing.root(&request, self.door.arrivals.load(Ordering::Relaxed));
        let told = request.prompt_top_logprobs.map_or(0, |_| request.prompt.len());
        let (outboxes, events) = channel_for(request.continuations, request.rules.max_tokens(), told);
        let mut aborts = Vec::with_capacity(outboxes.len());
        for outbox in outboxes {
            let place = places.split_one().ok_or(EngineError::Gone)?;
            let rank = self.door.next_rank(request.priority);
            let prompt_top = request.prompt_top_logprobs.filter(|_| outbox.index == 0);
            let work = Work::of(&request, outbox, place);
            let said = request.resumption.as_ref().map_or(&[][..], |resumption| &resumption.said);
            // Guesses know nothing of constraints: most would be wrong.
            let free = request.grammar.is_none();
            let longest = if free { request.prompt.len() + request.rules.max_tokens() } else { 0 };
            let sequence = Sequence::new(rank, Goal::Tokens, request.prompt.clone(), work)
                .guessed_until(longest)
                .behind(said)
                .until(deadline)
                .charged_to(request.tenant.clone())
                .through(request.adapter.clone())
                .telling_prompt(prompt_top)
                .sharing(root);
            aborts.push(AbortOnDrop { rank, door: Arc::clone(&self.door) });
            self.door.send(Command::Submit(Box::new(sequence)));
        }
        Ok(Generation::new(events, aborts))
    }

    /// Embeds each input: the mean of its last hidden states, scaled to length 1. Dropping the future is cancelling.
    ///
    /// # Errors
    /// Too few places are free, the process is about to stop, or the first failure among the inputs.
    pub async fn embed(
        &self,
        inputs: impl Into<Inputs>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let pending = self.submit_all(inputs.into(), deadline, |input, reply| Pending {
            input,
            goal: Goal::Embedding,
            adapter: None,
            prompt_top: None,
            answer: Answer::Embedding(Embedding { sum: Vec::new(), reply: Some(reply) }),
        })?;
        pending.all().await
    }

    /// Submits a request for each input, all or none.
    pub(super) fn submit_all<T>(
        &self,
        inputs: Inputs,
        deadline: Option<Instant>,
        prepare: impl Fn(Vec<u32>, Reply<T>) -> Pending,
    ) -> Result<Replies<T>, EngineError> {
        let Inputs { token_ids, tenant } = inputs;
        let mut places = self.door.place(token_ids.len(), &tenant)?;
        let mut replies = Vec::with_capacity(token_ids.len());
        for input in token_ids {
            let place = places.split_one().ok_or(EngineError::Gone)?;
            let (reply, receiver) = oneshot::channel();
            let sequence = self.sequence(prepare(input, reply), place).until(deadline);
            replies.push((receiver, self.submit(sequence.charged_to(Tenant::clone(&tenant)))));
        }
        Ok(Replies(replies))
    }

    fn sequence(&self, pending: Pending, place: Place) -> Sequence<Work> {
        let work = Work { timeline: Timeline::arrive(0), answer: pending.answer, _place: place };
        Sequence::new(self.door.next_rank(0), pending.goal, pending.input, work)
            .through(pending.adapter)
            .telling_prompt(pending.prompt_top)
    }

    fn submit(&self, sequence: Sequence<Work>) -> AbortOnDrop {
        let rank = sequence.rank;
        self.door.send(Command::Submit(Box::new(sequence)));
        AbortOnDrop { rank, door: Arc::clone(&self.door) }
    }

    /// How busy the engine is, as of the end of its last step.
    pub fn status(&self) -> EngineStatus {
        *self.door.status.borrow()
    }

    /// Resolves once the engine has done all it was told before this call, and holds nothing.
    pub async fn idle(&self) {
        let sent = self.door.sent.load(Ordering::SeqCst);
        let done = |status: &EngineStatus| status.taken >= sent && status.waiting + status.running == 0;
        // An engine that is gone holds nothing either.
        let _ = self.door.status.clone().wait_for(done).await;
    }

    /// Resolves once the engine is gone.
    #[cfg(test)]
    pub(super) async fn door_closed(&self) {
        self.door.inbox.closed().await;
    }

    /// Answers everybody with UNAVAILABLE and ends the engine.
    pub(crate) fn stop(&self) {
        self.door.send(Command::Stop);
    }
}

impl Door {
    /// Takes `count` places, all or none.
    fn place(&self, count: usize, tenant: &Tenant) -> Result<Place, EngineError> {
        let (error, outcome) = if self.inbox.is_closed() {
            (EngineError::Gone, Outcome::Stopped)
        } else if self.drain.phase() >= Phase::Draining {
            (EngineError::Draining, Outcome::Draining)
        } else {
            match self.places.take(count, tenant) {
                Ok(place) => return Ok(place),
                Err(Full::All { held, capacity }) => {
                    let retry_after = self.free_after((held + count).saturating_sub(capacity));
                    (EngineError::QueueFull { held, capacity, retry_after }, Outcome::QueueFull)
                }
                Err(Full::Share { held, share }) => {
                    let retry_after = self.free_after((held + count).saturating_sub(share));
                    (EngineError::ShareFull { held, share, retry_after }, Outcome::ShareFull)
                }
            }
        };
        self.metrics.ended(outcome);
        Err(error)
    }

    /// When so many places are likely to be free.
    fn free_after(&self, missing: usize) -> std::time::Duration {
        let missing = u32::try_from(missing.max(1)).unwrap_or(u32::MAX);
        let pace = self.status.borrow().place_frees_every;
        pace.saturating_mul(missing).clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end())
    }

    fn next_rank(&self, priority: i32) -> Rank {
        Rank::new(priority, self.arrivals.fetch_add(1, Ordering::Relaxed))
    }

    fn send(&self, command: Command) {
        self.sent.fetch_add(1, Ordering::SeqCst);
        // Where the engine is gone, whoever waits learns it from his own channel, which closes with the command.
        let _ = self.inbox.send(command);
    }

    pub(super) fn abort(&self, rank: Rank) {
        self.send(Command::Abort(rank));
    }
}
