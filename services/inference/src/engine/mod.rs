//! The engine: what owns the model, and one step of its life.
//!
//! Map: `handle` (the async door), `inbox` (what the engine is told), `work` (what it keeps with a sequence), `choices`
//! (the tokens of a step are chosen side by side), `outbox` (how tokens reach their caller), `score` (how likely given
//! tokens are), `sharing` (who shares blocks with whom), `timeline` (times and spans of a request), `status` (how busy it
//! is), `load` (cache and warm-up), `drive` (the thread, or in tests the task, that calls `step`), `pace` (how tests hold
//! it back), `places` (how many requests are held, and whose).
//!
//! Rules:
//! - `step` is the only thing that moves: commands first, then deadlines, then one plan, one forward pass, and the
//!   tokens. So an abort frees blocks before the next forward pass, and an expired request never enters one.
//! - The engine waits for nobody but its inbox: no reader, no lock that is held for long.
//! - A step that fails costs the sequences in its batch, nobody else. Several in a row make the process unready; an
//!   idle engine then tries a step of its own from time to time, and is ready again when one succeeds.
//! - A panic ends the engine: what the thread owned is in no known state. Whoever was in the batch is told `INTERNAL`
//!   (the request may be the cause, so nothing invites a retry), whoever waited `UNAVAILABLE`, and the process stays
//!   unready until it is started again.

mod choices;
mod drive;
mod handle;
mod inbox;
mod load;
mod outbox;
mod pace;
mod places;
mod score;
mod sharing;
mod status;
#[cfg(test)]
mod tests;
mod timeline;
mod work;

use tokio::time::Instant;
use tracing::Span;
use weft_runtime::{Failure, health::Condition};

pub(crate) use drive::{Started, start_stepped, start_thread};
pub use handle::EngineHandle;
pub(crate) use load::Plan;
pub use outbox::{Event, Finished, Generation};
pub use pace::{Gate, Pace};
pub(crate) use places::Places;
pub use status::EngineStatus;
pub use timeline::{Timings, Waited};

use crate::{
    error::EngineError,
    metrics::{Outcome, Part},
    model::{Batch, Model, ModelError, StepOutput, Wanted},
    scheduler::{Fate, Scheduler},
    sequence::Sequence,
};
use choices::{Choices, Undecided};
use inbox::{Command, Inbox};
use status::Reporter;
use work::{Dealer, Hands, Work};

/// Failed steps in a row after which the process is unready.
const FAILURES_UNTIL_UNREADY: u32 = 3;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It ran a batch.
    Worked,
    /// There was nothing to run.
    Idle,
    /// It was told to stop, and has answered everybody.
    Stopped,
}

/// Owns the model and every sequence.
pub(crate) struct Engine<M: Model + ?Sized> {
    scheduler: Scheduler<Work>,
    batch: Batch,
    choices: Choices,
    reporter: Reporter,
    inbox: Inbox,
    condition: Condition,
    failure: Failure,
    failures: u32,
    /// When the last step began, if it ran a batch.
    last_began: Option<Instant>,
    model_id: String,
    model: Box<M>,
}

impl<M: Model + ?Sized> Engine<M> {
    /// One step: what arrived, who expired, a plan, a forward pass, the tokens.
    pub(crate) fn step(&mut self) -> Turn {
        let began = Instant::now();
        if let Some(last) = self.last_began.take() {
            self.scheduler.took(began - last);
        }
        if self.take_commands(began) == Turn::Stopped {
            return Turn::Stopped;
        }
        self.drop_expired(began);
        if !self.scheduler.has_work() {
            self.publish();
            return Turn::Idle;
        }
        self.run_batch(began);
        self.last_began = Some(began);
        self.publish();
        Turn::Worked
    }

    fn take_commands(&mut self, now: Instant) -> Turn {
        while let Some(command) = self.inbox.next() {
            match command {
                Command::Submit(sequence) => self.scheduler.enqueue(*sequence),
                Command::Abort(rank) => {
                    if let Some(sequence) = self.scheduler.remove(rank) {
                        // The deadline also ends the call, and that may come to our ears first.
                        let expired = sequence.deadline.is_some_and(|deadline| deadline <= now);
                        let outcome = if expired { Outcome::Expired } else { Outcome::Aborted };
                        self.let_go(sequence, None, outcome);
                    }
                }
                Command::Stop => {
                    self.dismiss_all(&EngineError::Stopping, &EngineError::Stopping);
                    return Turn::Stopped;
                }
            }
        }
        Turn::Worked
    }

    fn drop_expired(&mut self, now: Instant) {
        while let Some(mut sequence) = self.scheduler.expire(now) {
            let left = sequence.deadline.map(|deadline| deadline.saturating_duration_since(now));
            match left.filter(|left| !left.is_zero()).zip(self.scheduler.least_time(&mut sequence)) {
                None => self.let_go(sequence, Some(EngineError::Expired), Outcome::Expired),
                Some((left, needs)) => {
                    let error = EngineError::Hopeless { prompt_tokens: sequence.prompt_len(), needs, left };
                    self.let_go(sequence, Some(error), Outcome::Hopeless);
                }
            }
        }
    }

    fn run_batch(&mut self, began: Instant) {
        self.scheduler.schedule(&mut self.batch);
        let planned = Instant::now();
        self.note_begun(planned);
        let span = self.step_span();
        let output = span.in_scope(|| forward(self.model.as_mut(), &self.batch));
        let computed = Instant::now();
        match output {
            Ok(output) => self.hand_out(output, computed),
            Err(error) => self.fail_batch(&error),
        }
        let metrics = &self.reporter.metrics;
        metrics.part_took(Part::Schedule, planned - began);
        metrics.part_took(Part::Forward, computed - planned);
        metrics.part_took(Part::Sample, computed.elapsed());
    }

    /// Notes who runs for the first time.
    fn note_begun(&mut self, now: Instant) {
        let (metrics, model) = (&self.reporter.metrics, &self.model_id);
        self.scheduler.visit_planned(|sequence| {
            let prompt_tokens = sequence.prompt_len();
            if let Some(waited) = sequence.payload.timeline.begin(now, model, prompt_tokens) {
                metrics.queue_time.observe(waited.as_secs_f64());
                sequence.adapter.iter().for_each(crate::adapters::Lease::runs);
            }
        });
    }

    /// A root of its own that points to the requests in the step. At debug level: most have no use for it.
    fn step_span(&mut self) -> Span {
        let (rows, sequences) = (self.batch.token_ids.len(), self.batch.sequences.len());
        let span = tracing::debug_span!(parent: None, "step", weft.rows = rows, weft.sequences = sequences);
        if !span.is_disabled() {
            self.scheduler.visit_planned(|sequence| {
                span.follows_from(sequence.payload.timeline.call());
            });
        }
        span
    }

    fn hand_out(&mut self, mut output: StepOutput, now: Instant) {
        let (mut generated, mut prefilled) = (0, 0);
        let rows = self.batch.token_ids.len();
        self.choose(&mut output);
        let Self { scheduler, reporter, model, model_id, .. } = self;
        let mut dealer = Dealer::new(&mut output, model.info());
        let mut hands = Hands { metrics: &reporter.metrics, model: model_id, now };
        let mut ended = 0;
        scheduler.commit(&mut self.batch, |sequence, ran| {
            let decodes = ran.rows == 1 + ran.guessed && ran.first_position >= sequence.prompt_len();
            prefilled += if decodes { 0 } else { ran.rows as u64 };
            let before = sequence.output_len();
            let outcome = work::settle(sequence, ran, dealer.next(&ran), &mut hands);
            let new = (sequence.output_len() - before) as u64;
            generated += new;
            hands.metrics.guessed(ran.guessed as u64, new.saturating_sub(1));
            sequence.adapter.iter().for_each(|lease| lease.count_tokens(new));
            let Some(outcome) = outcome else { return Fate::Stays };
            hands.metrics.ended(outcome);
            ended += 1;
            if outcome == Outcome::UnusableOutput { Fate::Fails } else { Fate::Leaves }
        });
        (0..ended).for_each(|_| reporter.place_freed(now));
        reporter.stepped(rows, generated, prefilled);
        model.recycle(output);
        self.note_success();
    }

    /// Chooses the tokens of all sequences that have logits.
    fn choose(&mut self, output: &mut StepOutput) {
        let Self { scheduler, choices, model, batch, .. } = self;
        let (mut logits, vocabulary) = (&mut output.logits[..], model.info().vocabulary_size);
        let mut undecided = Vec::with_capacity(batch.sequences.len());
        for (sequence, share) in scheduler.planned().into_iter().zip(&batch.sequences) {
            let rows = share.wanting_logits().len();
            if let Some(logits) = logits.split_off_mut(..rows * vocabulary).filter(|_| rows > 0) {
                undecided.push(Undecided { sequence, logits });
            }
        }
        choices.make(undecided);
    }

    fn fail_batch(&mut self, error: &ModelError) {
        tracing::error!(error = %error, sequences = self.batch.sequences.len(), "a step failed");
        let metrics = &self.reporter.metrics;
        self.scheduler.commit(&mut self.batch, |sequence, _| {
            sequence.payload.fail(EngineError::Step(error.to_string()));
            metrics.ended(Outcome::StepFailed);
            Fate::Fails
        });
        self.note_failure(error);
    }

    fn note_failure(&mut self, error: &ModelError) {
        self.failures += 1;
        if self.failures >= FAILURES_UNTIL_UNREADY {
            self.condition.fails(format!("{} steps in a row failed, the last with: {error}", self.failures));
        }
    }

    fn note_success(&mut self) {
        if self.failures >= FAILURES_UNTIL_UNREADY {
            self.condition.holds();
        }
        self.failures = 0;
    }

    /// Answers everybody: `running` to those that run, `waiting` to those that wait.
    fn dismiss_all(&mut self, running: &EngineError, waiting: &EngineError) {
        while let Some((sequence, ran)) = self.scheduler.evict() {
            let error = if ran { running } else { waiting };
            self.let_go(sequence, Some(error.clone()), Outcome::Stopped);
        }
        while let Some(command) = self.inbox.next() {
            if let Command::Submit(mut sequence) = command {
                sequence.payload.fail(waiting.clone());
            }
        }
        self.publish();
    }

    fn let_go(&mut self, mut sequence: Sequence<Work>, error: Option<EngineError>, outcome: Outcome) {
        if let Some(error) = error {
            sequence.payload.fail(error);
        }
        self.reporter.metrics.ended(outcome);
        self.reporter.place_freed(Instant::now());
    }

    fn publish(&mut self) {
        self.reporter.publish(&self.scheduler, self.inbox.taken());
        self.reporter.tell_memory(self.model.as_ref());
    }
}

/// Runs the model and checks that it gave what was asked for.
fn forward<M: Model + ?Sized>(model: &mut M, batch: &Batch) -> Result<StepOutput, ModelError> {
    let output = model.forward(batch)?;
    let info = model.info();
    let rows: usize = batch.sequences.iter().map(|share| share.wanting_logits().len()).sum();
    let summed = batch.sequences.iter().filter(|share| share.output == Wanted::HiddenSum).count();
    let (logits, sums) = (rows * info.vocabulary_size, summed * info.hidden_size);
    let asked = (logits, sums, batch.scored.len());
    let given = (output.logits.len(), output.hidden_sums.len(), output.scores.len());
    if given == asked {
        return Ok(output);
    }
    let words = |(logits, sums, scores)| format!("{logits} logits, {sums} hidden values and {scores} scores");
    Err(ModelError::Step(format!("it gave {}; asked for were {}", words(given), words(asked))))
}
