//! Which sequences are held, and where.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{
    fairness::{Accounts, Prices},
    line::Line,
};
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
    pub(super) waiting: BTreeMap<Rank, Sequence<T>>,
    /// In the order of service once sorted; admissions are appended.
    pub(super) running: Vec<Running<T>>,
    line: Line,
    accounts: Accounts,
    deadlines: BTreeSet<(Instant, Rank)>,
}

impl<T> Queue<T> {
    pub(super) fn new(prices: Prices) -> Self {
        Self {
            waiting: BTreeMap::new(),
            running: Vec::new(),
            line: Line::default(),
            accounts: Accounts::new(prices),
            deadlines: BTreeSet::new(),
        }
    }

    /// Puts a sequence at the end of its tenant's line. It will have to run by `due`, if there is such a time.
    pub(super) fn enqueue(&mut self, mut sequence: Sequence<T>, due: Option<Instant>) {
        set_due(&mut self.deadlines, &mut sequence, due);
        let least = self.line.least(&self.accounts);
        self.accounts.arrive(&sequence.tenant, least);
        self.line.add(sequence.rank, &sequence.tenant, &self.accounts);
        self.waiting.insert(sequence.rank, sequence);
    }

    /// The sequence that is admitted next.
    pub(super) fn next(&mut self) -> Option<&mut Sequence<T>> {
        let rank = self.line.first(&self.accounts)?;
        self.waiting.get_mut(&rank)
    }

    /// Lets a waiting sequence run, which has its blocks, and charges what of its prompt has to be computed.
    pub(super) fn admit(&mut self, rank: Rank) {
        let Some(mut sequence) = self.waiting.remove(&rank) else { return };
        let returns = self.line.take(rank, &sequence.tenant);
        let deadline = sequence.deadline;
        set_due(&mut self.deadlines, &mut sequence, deadline);
        let charged = sequence.begin_service();
        if returns {
            self.accounts.readmit(&sequence.tenant, charged);
        } else {
            self.accounts.admit(&sequence.tenant, charged);
        }
        self.running.push(Running { sequence, leaves: false });
    }

    /// Takes the blocks of the running sequence that comes last; it waits until it can be computed again.
    pub(super) fn preempt_last(&mut self, pool: &mut BlockPool) {
        let Some(Running { mut sequence, .. }) = self.running.pop() else { return };
        self.end_service(&mut sequence);
        sequence.table.release(pool);
        sequence.forget();
        self.line.add_returning(sequence.rank);
        self.waiting.insert(sequence.rank, sequence);
    }

    /// Charges the tokens that a running sequence has been given since it had `before`.
    pub(super) fn charge(&mut self, index: usize, before: usize) {
        let sequence = &self.running[index].sequence;
        let generated = sequence.output_len() - before;
        if generated > 0 {
            self.accounts.generated(&sequence.tenant, generated);
        }
    }

    /// Pays back what a running sequence was charged for tokens that it has found since it had `before`.
    pub(super) fn pay_back_found(&mut self, index: usize, before: usize) {
        let sequence = &self.running[index].sequence;
        let found = sequence.found_since(before);
        if found > 0 {
            self.accounts.pay_back(&sequence.tenant, found);
            self.line.paid_back(&sequence.tenant, &self.accounts);
        }
    }

    pub(super) fn remove(&mut self, rank: Rank) -> Option<Sequence<T>> {
        let mut sequence = match self.waiting.remove(&rank) {
            Some(waiting) => {
                let admitted = self.line.take(rank, &waiting.tenant);
                self.accounts.leave(&waiting.tenant, !admitted);
                waiting
            }
            None => {
                let index = self.running.iter().position(|running| running.sequence.rank == rank)?;
                let mut sequence = self.running.remove(index).sequence;
                self.end_service(&mut sequence);
                self.accounts.leave(&sequence.tenant, false);
                sequence
            }
        };
        set_due(&mut self.deadlines, &mut sequence, None);
        Some(sequence)
    }

    /// Takes out one sequence whose time is over: its deadline, or while it waits the time by which it should run, as
    /// `due_time` sees it now.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        due_time: impl Fn(&mut Sequence<T>) -> Option<Instant>,
    ) -> Option<Sequence<T>> {
        loop {
            let (due, rank) = *self.deadlines.first()?;
            if due > now {
                return None;
            }
            // The engine may have become quicker since.
            let again = self.waiting.get_mut(&rank).filter(|waiting| waiting.due < waiting.deadline);
            match again.map(|waiting| (due_time(waiting), waiting)) {
                Some((later, waiting)) if later.is_some_and(|later| later > now) => {
                    set_due(&mut self.deadlines, waiting, later);
                }
                _ => return self.remove(rank),
            }
        }
    }

    pub(super) fn evict(&mut self) -> Option<Sequence<T>> {
        let running = self.running.last().map(|running| running.sequence.rank);
        let rank = running.or_else(|| self.waiting.keys().next().copied())?;
        self.remove(rank)
    }

    /// Drops the running sequences that leave, and frees their blocks.
    pub(super) fn dismiss(&mut self, pool: &mut BlockPool) {
        let mut running = std::mem::take(&mut self.running);
        running.retain_mut(|running| {
            let sequence = &mut running.sequence;
            if running.leaves {
                set_due(&mut self.deadlines, sequence, None);
                self.end_service(sequence);
                self.accounts.leave(&sequence.tenant, false);
                sequence.table.release(pool);
            }
            !running.leaves
        });
        self.running = running;
    }

    /// Puts the running sequences into the order of service. Nearly sorted already: only admissions break it.
    pub(super) fn sort(&mut self) {
        if !self.running.is_sorted_by_key(|running| running.sequence.rank) {
            self.running.sort_by_key(|running| running.sequence.rank);
        }
    }

    /// The same where somebody will have to give way: within a priority, whose tenant was served most stands last.
    pub(super) fn sort_by_claim(&mut self) {
        let accounts = &self.accounts;
        self.running.sort_by_cached_key(|running| {
            let sequence = &running.sequence;
            (sequence.rank.priority(), accounts.counter(&sequence.tenant), sequence.rank)
        });
    }

    /// Tenants that are known.
    pub(super) fn tenants(&self) -> usize {
        self.accounts.len()
    }

    /// Pays back what was charged for a prompt and will not be computed.
    fn end_service(&mut self, sequence: &mut Sequence<T>) {
        let unserved = sequence.end_service();
        if unserved > 0 {
            self.accounts.pay_back(&sequence.tenant, unserved);
            self.line.paid_back(&sequence.tenant, &self.accounts);
        }
    }
}

fn set_due<T>(deadlines: &mut BTreeSet<(Instant, Rank)>, sequence: &mut Sequence<T>, due: Option<Instant>) {
    if let Some(before) = std::mem::replace(&mut sequence.due, due) {
        deadlines.remove(&(before, sequence.rank));
    }
    deadlines.extend(due.map(|due| (due, sequence.rank)));
}
