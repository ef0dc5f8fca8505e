//! Who of those that wait is admitted next.
//!
//! By priority; within one, first those that had to give way, then the tenant that was served least, then whoever came
//! first. Those that gave way were admitted in their turn once and their callers are in the middle of an answer.
//!
//! Counters rise with every token, so a tenant's place in the order is corrected only once it seems to be the first:
//! what it was served can only have put it further back. Only a repayment moves it forward, and says so.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::fairness::Accounts;
use crate::sequence::{Rank, Tenant};

/// Those who wait, in the order in which they are admitted.
#[derive(Debug, Default)]
pub(super) struct Line {
    classes: BTreeMap<Reverse<i32>, Class>,
}

/// Those of one priority.
#[derive(Debug, Default)]
struct Class {
    /// Those that had to give way.
    returning: BTreeSet<Rank>,
    tenants: HashMap<Tenant, Filed>,
    order: BTreeMap<(u64, Rank), Tenant>,
}

/// One tenant's requests of a class, and under which counter they stand in its order.
#[derive(Debug)]
struct Filed {
    counter: u64,
    ranks: BTreeSet<Rank>,
}

impl Line {
    /// Adds a request that has not been admitted yet.
    pub(super) fn add(&mut self, rank: Rank, tenant: &Tenant, accounts: &Accounts) {
        let class = self.classes.entry(rank.priority()).or_default();
        let counter = accounts.counter(tenant);
        let new = || Filed { counter, ranks: BTreeSet::new() };
        let filed = class.tenants.entry(Tenant::clone(tenant)).or_insert_with(new);
        let before = filed.ranks.first().copied();
        filed.ranks.insert(rank);
        class.refile(tenant, before, counter);
    }

    /// Adds a request that had to give way.
    pub(super) fn add_returning(&mut self, rank: Rank) {
        self.classes.entry(rank.priority()).or_default().returning.insert(rank);
    }

    /// Takes a request out. Answers whether it had been admitted before.
    pub(super) fn take(&mut self, rank: Rank, tenant: &Tenant) -> bool {
        let Some(class) = self.classes.get_mut(&rank.priority()) else { return false };
        let returning = class.returning.remove(&rank);
        if let Some(filed) = class.tenants.get_mut(tenant).filter(|_| !returning) {
            let (before, counter) = (filed.ranks.first().copied(), filed.counter);
            filed.ranks.remove(&rank);
            class.refile(tenant, before, counter);
        }
        if class.returning.is_empty() && class.tenants.is_empty() {
            self.classes.remove(&rank.priority());
        }
        returning
    }

    /// Who is admitted next.
    pub(super) fn first(&mut self, accounts: &Accounts) -> Option<Rank> {
        let class = self.classes.values_mut().next()?;
        let returning = class.returning.first().copied();
        returning.or_else(|| class.first(accounts).map(|(_, rank)| rank))
    }

    /// The lowest counter among the tenants that wait.
    pub(super) fn least(&mut self, accounts: &Accounts) -> Option<u64> {
        self.classes.values_mut().filter_map(|class| class.first(accounts)).map(|(counter, _)| counter).min()
    }

    /// Corrects the place of a tenant that was paid back.
    pub(super) fn paid_back(&mut self, tenant: &Tenant, accounts: &Accounts) {
        let counter = accounts.counter(tenant);
        for class in self.classes.values_mut() {
            let first = class.tenants.get(tenant).and_then(|filed| filed.ranks.first().copied());
            class.refile(tenant, first, counter);
        }
    }
}

impl Class {
    /// The tenant that was served least, by what it was served, and its first request.
    fn first(&mut self, accounts: &Accounts) -> Option<(u64, Rank)> {
        loop {
            let ((filed, rank), tenant) = self.order.first_key_value()?;
            let counter = accounts.counter(tenant);
            if counter == *filed {
                return Some((counter, *rank));
            }
            let (rank, tenant) = (*rank, Tenant::clone(tenant));
            self.refile(&tenant, Some(rank), counter);
        }
    }

    /// Puts a tenant, whose first request was `before`, where its requests and its counter say.
    fn refile(&mut self, tenant: &Tenant, before: Option<Rank>, counter: u64) {
        let Some(filed) = self.tenants.get_mut(tenant) else { return };
        if let Some(before) = before {
            self.order.remove(&(filed.counter, before));
        }
        filed.counter = counter;
        match filed.ranks.first() {
            Some(first) => {
                self.order.insert((counter, *first), Tenant::clone(tenant));
            }
            None => {
                self.tenants.remove(tenant);
            }
        }
    }
}
