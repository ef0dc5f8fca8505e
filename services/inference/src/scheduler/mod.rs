//! Who runs in the next step, and for how many tokens.
//!
//! Map: `queue` (what is held and where: waiting, running, deadlines), `line` (who of the waiting is next), `fairness`
//! (what each tenant was served), `plan` (the step's plan: decodes, chunks of prompts, admissions, preemption), `tempo`
//! (how long steps take, and what follows from it), this file (the doors).
//!
//! Rules:
//! - Decodes are planned first, so that no running sequence stalls behind a prompt; prompts share what is left of the
//!   token budget, in chunks; then the head of the line is admitted, never one behind it.
//! - Within a priority the tenant that was served least is next, and the one that was served most gives way first.
//! - A prompt gets all its blocks when it is admitted, so only decodes can run out of blocks. Where one does, the
//!   sequence that ranks last gives up its blocks and is computed again later. It ranks behind every sequence that was
//!   planned before, so a plan is never taken back; and the first of the running never gives way to anyone.
//! - What others have computed of a prompt is taken over at admission and before each of its chunks; what another
//!   sequence computes in the same step is waited for. So a prefix that many bring at once is computed once.
//! - What is asked for must fit: nothing may be enqueued that needs more blocks than there are.
//! - A plan is followed by a `commit`, which brings the block tables home.

mod fairness;
mod line;
mod plan;
mod queue;
mod tempo;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use crate::{
    kv_cache::{BlockHash, BlockPool, BlockTable},
    model::{Batch, Wanted},
    sequence::{Rank, Sequence},
    speculation::Speculation,
};
pub use fairness::Prices;
use plan::Load;
use queue::Queue;
pub use tempo::Pacing;
use tempo::Tempo;

/// What bounds a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// The most sequences that run at once.
    pub max_sequences: usize,
    /// The most tokens that a step computes; at least `max_sequences`.
    pub max_batched_tokens: usize,
}

/// Whether a sequence goes on after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs on.
    Stays,
    /// It is done: its blocks are free from here on, and found by whoever shares its prefix.
    Leaves,
    /// It leaves because what was computed for it cannot be trusted: nobody finds any of its blocks.
    Fails,
}

/// How the prefix cache does, in tokens of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounts {
    /// Looked up.
    pub queried_tokens: u64,
    /// Found, and not computed again.
    pub hit_tokens: u64,
}

/// What a sequence has to show after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the model was asked for.
    pub wanted: Wanted,
    /// The position of its first row in this step.
    pub first_position: usize,
    /// How many rows it had.
    pub rows: usize,
    /// How many of them, the last ones, were guessed.
    pub guessed: usize,
    /// After how many of them the likelihood of the next token was asked for.
    pub scored: usize,
}

/// Holds every sequence and every block, and plans each step. `T` is what the engine keeps with a sequence.
#[derive(Debug)]
pub struct Scheduler<T> {
    limits: StepLimits,
    pool: BlockPool,
    queue: Queue<T>,
    /// Who is in the current plan: indices of running sequences, in the order of the batch.
    planned: Vec<usize>,
    /// The blocks of prompts that the current plan fills.
    underway: HashSet<BlockHash>,
    prefix: PrefixCounts,
    preemptions: u64,
    tempo: Tempo,
    speculation: Speculation,
    /// What the last plan holds.
    load: Load,
    /// Rows that prompts may have in it.
    room: usize,
}

impl<T> Scheduler<T> {
    /// A scheduler with nothing to do.
    pub fn new(limits: StepLimits, pool: BlockPool) -> Self {
        Self {
            limits,
            pool,
            queue: Queue::new(Prices::default()),
            planned: Vec::new(),
            underway: HashSet::new(),
            prefix: PrefixCounts::default(),
            preemptions: 0,
            tempo: Tempo::new(Pacing { step_stretch: None, refuse_hopeless: false }),
            speculation: Speculation::default(),
            load: Load::default(),
            room: 0,
        }
    }

    /// The same, with these prices. For a scheduler that has nothing to do yet.
    #[must_use]
    pub fn charging(mut self, prices: Prices) -> Self {
        self.queue = Queue::new(prices);
        self
    }

    /// The same, bounded by time.
    #[must_use]
    pub fn paced(mut self, pacing: Pacing) -> Self {
        self.tempo = Tempo::new(pacing);
        self
    }

    /// The same, with guesses.
    #[must_use]
    pub fn guessing(mut self, speculation: Speculation) -> Self {
        self.speculation = speculation;
        self
    }

    /// Puts a sequence into the queue.
    pub fn enqueue(&mut self, mut sequence: Sequence<T>) {
        let due = due_time(&self.tempo, &self.pool, &mut sequence);
        self.queue.enqueue(sequence, due);
    }

    /// Notes how long the last planned step took, all in all.
    pub fn took(&mut self, time: Duration) {
        self.tempo.note(self.load, time);
    }

    /// The least time in which a sequence that has not run has its first token, as far as was measured.
    pub fn least_time(&self, sequence: &mut Sequence<T>) -> Option<Duration> {
        self.tempo.least_time(sequence.left_to_compute(&self.pool))
    }

    /// Takes a sequence out, waiting or running, and frees its blocks.
    pub fn remove(&mut self, rank: Rank) -> Option<Sequence<T>> {
        let sequence = self.queue.remove(rank)?;
        Some(self.freed(sequence))
    }

    /// Takes out one sequence whose deadline has passed, or will have before it can have its first token, and frees its
    /// blocks.
    pub fn expire(&mut self, now: Instant) -> Option<Sequence<T>> {
        let (tempo, pool) = (&self.tempo, &self.pool);
        let sequence = self.queue.expire(now, |sequence| due_time(tempo, pool, sequence))?;
        Some(self.freed(sequence))
    }

    /// Takes out any sequence, those that run first, and says whether it ran: for the end of all things.
    pub fn evict(&mut self) -> Option<(Sequence<T>, bool)> {
        let ran = self.running() > 0;
        let sequence = self.queue.evict()?;
        Some((self.freed(sequence), ran))
    }

    /// Plans a step into `batch`, whose former content is dropped. It has rows whenever there is work.
    pub fn schedule(&mut self, batch: &mut Batch) {
        batch.token_ids.clear();
        batch.positions.clear();
        batch.sequences.clear();
        batch.scored.clear();
        self.plan(batch);
    }

    /// Shows the sequences of the current plan, in the batch's order.
    pub fn visit_planned(&mut self, mut visit: impl FnMut(&mut Sequence<T>)) {
        for index in &self.planned {
            visit(&mut self.queue.running[*index].sequence);
        }
    }

    /// All of them at once, for several threads.
    pub fn planned(&mut self) -> Vec<&mut Sequence<T>> {
        let running = self.queue.running.iter_mut().map(|running| Some(&mut running.sequence));
        let mut running: Vec<_> = running.collect();
        self.planned.iter().filter_map(|index| running[*index].take()).collect()
    }

    /// Ends a step: takes the block tables back and lets `settle` say of each planned sequence, in the batch's order,
    /// whether it goes on. Those that leave are dropped and their blocks are free.
    pub fn commit(&mut self, batch: &mut Batch, mut settle: impl FnMut(&mut Sequence<T>, Ran) -> Fate) {
        let mut left = false;
        for (index, share) in self.planned.iter().zip(&mut batch.sequences) {
            let running = &mut self.queue.running[*index];
            let sequence = &mut running.sequence;
            sequence.table.restore(std::mem::take(&mut share.blocks));
            // Nothing is kept alive by a step that is over.
            share.adapter = None;
            let (first_position, rows) = (sequence.computed(), share.rows.len());
            let (guessed, scored) = (sequence.draft().len(), sequence.unscored(rows).len());
            let ran = Ran { wanted: share.output, first_position, rows, guessed, scored };
            sequence.advance(rows - guessed);
            let before = sequence.output_len();
            let fate = settle(sequence, ran);
            // Behind the tokens that were guessed right stands one of the model's own.
            sequence.judge_draft((sequence.output_len() - before).saturating_sub(1));
            match fate {
                Fate::Stays | Fate::Leaves => sequence.publish(&mut self.pool),
                Fate::Fails => sequence.table.retract(&mut self.pool),
            }
            running.leaves = fate != Fate::Stays;
            left |= running.leaves;
            self.queue.charge(*index, before);
        }
        self.planned.clear();
        if left {
            self.queue.dismiss(&mut self.pool);
        }
    }

    /// Whether anything waits or runs.
    pub fn has_work(&self) -> bool {
        self.waiting() + self.running() > 0
    }

    /// Sequences that wait.
    pub fn waiting(&self) -> usize {
        self.queue.waiting.len()
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        self.queue.running.len()
    }

    /// Tenants whose accounts are kept.
    pub fn tenants(&self) -> usize {
        self.queue.tenants()
    }

    /// The blocks of the cache.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Takes blocks for `tokens` tokens that belong to no sequence; none where there are too few. Whoever has used them
    /// hands them back.
    pub fn lend_blocks(&mut self, tokens: usize) -> Option<BlockTable> {
        let mut table = BlockTable::default();
        table.grow_to(tokens, &mut self.pool).then_some(table)
    }

    /// Takes back what was lent.
    pub fn take_back(&mut self, mut table: BlockTable) {
        table.release(&mut self.pool);
    }

    /// How the prefix cache does.
    pub fn prefix_counts(&self) -> PrefixCounts {
        self.prefix
    }

    /// Preemptions so far.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    fn freed(&mut self, mut sequence: Sequence<T>) -> Sequence<T> {
        sequence.table.release(&mut self.pool);
        sequence
    }
}

/// When a sequence has to run at the latest.
fn due_time<T>(tempo: &Tempo, pool: &BlockPool, sequence: &mut Sequence<T>) -> Option<Instant> {
    let deadline = sequence.deadline?;
    let least = tempo.least_time(sequence.left_to_compute(pool)).unwrap_or_default();
    Some(deadline.checked_sub(least).unwrap_or(deadline))
}
