//! Which sequences are held, and where.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::{
    kv_cache::BlockPool,
    sequence::{Rank, Sequence},
};

/// A sequence with blocks.
#[derive(Debug)]
pub(super) struct Running<T> {
    pub(super) sequence: Sequence<T>,
    pub(super) leaves: bool,
}

/// Every sequence, waiting or running, and every deadline.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// In the order of service. A preempted sequence keeps its rank, and so stands before all that came after it.
    pub(super) waiting: BTreeMap<Rank, Sequence<T>>,
    /// In the order of service once sorted; admissions are appended.
    pub(super) running: Vec<Running<T>>,
    deadlines: BTreeSet<(Instant, Rank)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), running: Vec::new(), deadlines: BTreeSet::new() }
    }
}

impl<T> Queue<T> {
    pub(super) fn enqueue(&mut self, sequence: Sequence<T>) {
        if let Some(deadline) = sequence.deadline {
            self.deadlines.insert((deadline, sequence.rank));
        }
        self.waiting.insert(sequence.rank, sequence);
    }

    pub(super) fn remove(&mut self, rank: Rank) -> Option<Sequence<T>> {
        let sequence = match self.waiting.remove(&rank) {
            Some(waiting) => waiting,
            None => {
                let index = self.running.iter().position(|running| running.sequence.rank == rank)?;
                self.running.remove(index).sequence
            }
        };
        forget_deadline(&mut self.deadlines, &sequence);
        Some(sequence)
    }

    pub(super) fn expire(&mut self, now: Instant) -> Option<Sequence<T>> {
        let (deadline, rank) = *self.deadlines.first()?;
        if deadline > now { None } else { self.remove(rank) }
    }

    pub(super) fn evict(&mut self) -> Option<Sequence<T>> {
        let running = self.running.last().map(|running| running.sequence.rank);
        let rank = running.or_else(|| self.waiting.keys().next().copied())?;
        self.remove(rank)
    }

    /// Drops the running sequences that leave, and frees their blocks.
    pub(super) fn dismiss(&mut self, pool: &mut BlockPool) {
        let deadlines = &mut self.deadlines;
        self.running.retain_mut(|running| {
            if running.leaves {
                forget_deadline(deadlines, &running.sequence);
                running.sequence.table.release(pool);
            }
            !running.leaves
        });
    }

    /// Puts the running sequences into the order of service. Nearly sorted already: only admissions break it.
    pub(super) fn sort(&mut self) {
        if !self.running.is_sorted_by_key(|running| running.sequence.rank) {
            self.running.sort_by_key(|running| running.sequence.rank);
        }
    }
}

fn forget_deadline<T>(deadlines: &mut BTreeSet<(Instant, Rank)>, sequence: &Sequence<T>) {
    if let Some(deadline) = sequence.deadline {
        deadlines.remove(&(deadline, sequence.rank));
    }
}
