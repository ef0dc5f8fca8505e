//! The plan of one step.

use super::Scheduler;
use crate::{
    model::{Batch, ScoredRow, SequenceRows, Wanted},
    sequence::{Goal, Sequence},
};

/// What a step holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Rows of sequences that decode: one of each, and what is guessed to follow.
    pub(super) decodes: usize,
    /// Rows of prompts.
    pub(super) prompt_rows: usize,
}

impl<T> Scheduler<T> {
    /// Decodes first, then prompts that were begun, then new ones.
    pub(super) fn plan(&mut self, batch: &mut Batch) {
        self.planned.clear();
        self.underway.clear();
        if self.blocks_are_short() {
            self.queue.sort_by_claim();
        } else {
            self.queue.sort();
        }
        let preemptions = self.preemptions;
        self.plan_decodes(batch);
        self.load = Load { decodes: batch.token_ids.len(), prompt_rows: 0 };
        self.room = self.room_for_prompts();
        self.plan_prompts(batch);
        // Blocks are short: whoever was admitted now would be the next to give way.
        if self.preemptions == preemptions {
            self.admit(batch);
        }
        self.load.prompt_rows = batch.token_ids.len() - self.load.decodes;
    }

    /// Rows that prompts may have in this step.
    fn room_for_prompts(&self) -> usize {
        let places = self.limits.max_sequences - self.queue.running.len();
        let begun = self.queue.running.len() - self.planned.len();
        let prompts = begun + places.min(self.queue.waiting.len());
        let room = self.limits.max_batched_tokens.saturating_sub(self.load.decodes);
        room.min(self.tempo.prompt_rows_beside(self.load.decodes, prompts))
    }

    fn plan_decodes(&mut self, batch: &mut Batch) {
        let mut index = 0;
        while index < self.queue.running.len() {
            if self.queue.running[index].sequence.remaining() == 1 && self.make_room(index) {
                self.planned.push(index);
            }
            index += 1;
        }
        let guesses = self.planned.len() <= self.speculation.max_sequences;
        let mut spare =
            if guesses { self.limits.max_batched_tokens.saturating_sub(self.planned.len()) } else { 0 };
        for place in 0..self.planned.len() {
            let index = self.planned[place];
            let guessed = self.guess(index, spare);
            spare -= guessed;
            share(&mut self.queue.running[index].sequence, 1 + guessed, batch);
        }
    }

    /// Guesses what follows a sequence, at most `most` tokens, where there are blocks for them that nobody else will need
    /// soon. Answers how many.
    fn guess(&mut self, index: usize, most: usize) -> usize {
        let spared = self.queue.running.len();
        let sequence = &mut self.queue.running[index].sequence;
        sequence.guess(&self.speculation, most);
        let tokens = sequence.computed() + 1 + sequence.draft().len();
        let missing = self.pool.blocks_for(tokens).saturating_sub(sequence.table.len());
        let fits = missing == 0 || missing + spared <= self.pool.free();
        if !fits || !sequence.table.grow_to(tokens, &mut self.pool) {
            sequence.drop_draft();
        }
        sequence.draft().len()
    }

    fn plan_prompts(&mut self, batch: &mut Batch) {
        for index in 0..self.queue.running.len() {
            let left = self.budget_left(batch);
            if left == 0 {
                return;
            }
            if self.queue.running[index].sequence.remaining() > 1 {
                self.plan_prompt(index, batch);
            }
        }
    }

    /// The next rows of a prompt, unless another sequence of this plan computes the very same: then the sequence waits
    /// for that step, and takes over what comes of it.
    fn plan_prompt(&mut self, index: usize, batch: &mut Batch) {
        let left = self.budget_left(batch);
        let sequence = &mut self.queue.running[index].sequence;
        let (before, cached) = (sequence.computed(), sequence.cached());
        sequence.catch_up(&mut self.pool);
        self.prefix.hit_tokens += (sequence.cached() - cached) as u64;
        self.queue.pay_back_found(index, before);
        let sequence = &mut self.queue.running[index].sequence;
        if !sequence.awaits(&self.underway, &self.pool) {
            let rows = sequence.remaining().min(left);
            sequence.announce(rows, &mut self.underway, &self.pool);
            self.plan_rows(index, rows, batch);
        }
    }

    fn admit(&mut self, batch: &mut Batch) {
        while self.queue.running.len() < self.limits.max_sequences && self.budget_left(batch) > 0 {
            // One block for each that runs stays free, or the newcomer would be preempted a few steps later.
            let spared = self.queue.running.len();
            let Some(sequence) = self.queue.next() else { return };
            if !sequence.settle_in(spared, &mut self.pool) {
                return;
            }
            if sequence.shares() && sequence.preemptions == 0 {
                self.prefix.queried_tokens += sequence.prompt_len() as u64;
                self.prefix.hit_tokens += sequence.cached() as u64;
            }
            let rank = sequence.rank;
            self.queue.admit(rank);
            self.plan_prompt(self.queue.running.len() - 1, batch);
        }
    }

    /// Makes sure that the running sequence at `index` has a block for its next token, preempting from the far end of
    /// the order of service. Answers `false` where the sequence itself had to give way.
    fn make_room(&mut self, index: usize) -> bool {
        loop {
            let sequence = &mut self.queue.running[index].sequence;
            let tokens = sequence.computed() + 1;
            if sequence.table.grow_to(tokens, &mut self.pool) {
                return true;
            }
            self.queue.preempt_last(&mut self.pool);
            self.preemptions += 1;
            if index == self.queue.running.len() {
                return false;
            }
        }
    }

    /// Whether the decodes of this step need more blocks than are free.
    fn blocks_are_short(&self) -> bool {
        let needs = |sequence: &Sequence<T>| {
            let tokens = sequence.computed() + 1;
            sequence.remaining() == 1 && self.pool.blocks_for(tokens) > sequence.table.len()
        };
        let needed = self.queue.running.iter().filter(|running| needs(&running.sequence)).count();
        needed > self.pool.free()
    }

    fn plan_rows(&mut self, index: usize, rows: usize, batch: &mut Batch) {
        let sequence = &mut self.queue.running[index].sequence;
        self.planned.push(index);
        share(sequence, rows, batch);
    }

    fn budget_left(&self, batch: &Batch) -> usize {
        (self.load.decodes + self.room).saturating_sub(batch.token_ids.len())
    }
}

/// Appends the next `rows` rows of a sequence to the batch, those of its draft last, and lends it the sequence's block table.
fn share<T>(sequence: &mut Sequence<T>, rows: usize, batch: &mut Batch) {
    let first_row = batch.token_ids.len();
    let positions = sequence.computed()..sequence.computed() + rows;
    let known = positions.start..positions.end - sequence.draft().len();
    batch.token_ids.extend_from_slice(&sequence.tokens()[known.clone()]);
    batch.token_ids.extend_from_slice(sequence.draft());
    // Positions are below the model's context length, which is far below 2^32.
    batch.positions.extend(positions.clone().map(|position| position as u32));
    let (tokens, top) = (sequence.tokens(), sequence.prompt_top.unwrap_or(0));
    batch.scored.extend(sequence.unscored(rows).map(|position| ScoredRow {
        row: first_row + position - positions.start,
        next: tokens[position + 1],
        top,
    }));
    let reaches_end = known.end == sequence.tokens().len();
    batch.sequences.push(SequenceRows {
        rows: first_row..first_row + rows,
        blocks: sequence.table.lend(),
        context_len: positions.end,
        adapter: sequence.adapter.as_ref().map(|lease| lease.weights().clone()),
        output: match sequence.goal {
            Goal::Embedding => Wanted::HiddenSum,
            Goal::Tokens if !sequence.draft().is_empty() => Wanted::AllLogits,
            Goal::Tokens if reaches_end => Wanted::LastLogits,
            Goal::Tokens | Goal::Scores => Wanted::Nothing,
        },
    });
}
