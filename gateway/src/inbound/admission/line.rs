//! Who waits to be let in, and who comes next.

use std::cmp::Reverse;

use tokio::{sync::oneshot, time::Instant};

use super::{load::Load, refusal::Refusal, tenants::Tenants};
use crate::inbound::tenant::Tenant;

/// A request that wants in.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) tenant: Tenant,
    /// Higher comes first, within what is fair.
    pub(super) priority: i32,
    pub(super) load: Load,
    pub(super) deadline: Option<Instant>,
}

/// What a request that waits is told in the end.
pub(super) type Verdict = Result<(), Refusal>;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) asked: Asked,
    pub(super) tell: oneshot::Sender<Verdict>,
}

/// What decides who comes first: those within their tenant's fair share, by priority; then whose tenant has least; then
/// who came first. Fairness stands before priority, for anybody can claim to be urgent.
pub(super) type Rank = (bool, Reverse<i32>, u64, u64);

/// Those who wait. Few, so that looking at all of them costs less than keeping them in an order that changes with
/// everybody who comes and goes.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiters: Vec<Waiter>,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn push(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    pub(super) fn get(&self, ticket: u64) -> Option<&Waiter> {
        self.waiters.iter().find(|waiter| waiter.ticket == ticket)
    }

    pub(super) fn remove(&mut self, ticket: u64) -> Option<Waiter> {
        let at = self.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
        Some(self.waiters.swap_remove(at))
    }

    /// Who is next.
    pub(super) fn first(&self, tenants: &Tenants, room: Load) -> Option<&Waiter> {
        self.waiters.iter().min_by_key(|waiter| rank(waiter, tenants, room))
    }

    /// Who is last.
    pub(super) fn last(&self, tenants: &Tenants, room: Load) -> Option<&Waiter> {
        self.waiters.iter().max_by_key(|waiter| rank(waiter, tenants, room))
    }

    /// What comes before this one.
    pub(super) fn ahead_of(&self, one: &Waiter, tenants: &Tenants, room: Load) -> Load {
        let own = rank(one, tenants, room);
        let before = self.waiters.iter().filter(|waiter| rank(waiter, tenants, room) < own);
        before.fold(Load::default(), |sum, waiter| sum + waiter.asked.load)
    }
}

fn rank(waiter: &Waiter, tenants: &Tenants, room: Load) -> Rank {
    let Asked { tenant, priority, load, .. } = &waiter.asked;
    let beyond = tenants.beyond_share(tenant, *load, room);
    (beyond, Reverse(*priority), tenants.used(tenant).tokens, waiter.ticket)
}
