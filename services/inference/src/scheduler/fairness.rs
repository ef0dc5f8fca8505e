//! What each tenant has been served: the virtual token counter of Sheng et al., "Fairness in Serving Large Language
//! Models" (OSDI 2024, arXiv:2401.00588).
//!
//! Every token that is served to a tenant raises its counter by the token's price, and of those who wait the tenant
//! with the lowest counter is next. A tenant that comes back from a pause is lifted to the level of those who wait, so
//! that nobody saves up claims while away.
//!
//! A prompt is charged when it is admitted, and what of it is never computed is paid back: between the two nobody may
//! be admitted as if it had not been. Tokens that were found in the prefix cache cost nothing, and what is computed
//! again after a preemption was paid for the first time.
//!
//! # Why forgetting is fair
//! Whoever comes back starts at `max(its counter, the level)`, and the level never falls. So an account without
//! requests may be forgotten once the level has passed it: nothing would be different. Of the others, those who owe
//! least are forgotten where there are too many.

use std::collections::{BTreeSet, HashMap};

use crate::sequence::Tenant;

/// What tokens cost, and how many tenants are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// Of a prompt's token that is computed.
    pub prefill: u64,
    /// Of a token that is generated.
    pub decode: u64,
    /// Tenants without requests that are remembered at most.
    pub max_idle_tenants: usize,
}

impl Default for Prices {
    /// The paper's prices: a generated token costs as much as two of a prompt.
    fn default() -> Self {
        Self { prefill: 1, decode: 2, max_idle_tenants: 4096 }
    }
}

/// What one tenant was served, and what it has here.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    counter: u64,
    /// Requests that have not been admitted yet.
    waiting: usize,
    /// All requests, waiting or running.
    held: usize,
}

/// The accounts of all tenants.
#[derive(Debug)]
pub(super) struct Accounts {
    prices: Prices,
    accounts: HashMap<Tenant, Account>,
    /// Those without requests, by what they were served.
    idle: BTreeSet<(u64, Tenant)>,
    /// The greatest level so far.
    level: u64,
    /// Whose last waiting request was admitted last.
    last_admitted: Option<Tenant>,
}

impl Accounts {
    /// No account.
    pub(super) fn new(prices: Prices) -> Self {
        Self { prices, accounts: HashMap::new(), idle: BTreeSet::new(), level: 0, last_admitted: None }
    }

    /// Notes a request. `least` is the lowest counter among those who wait.
    pub(super) fn arrive(&mut self, tenant: &Tenant, least: Option<u64>) {
        let last = || self.last_admitted.as_ref().map_or(0, |last| self.counter(last));
        self.level = self.level.max(least.unwrap_or_else(last));
        let account = self.accounts.entry(Tenant::clone(tenant)).or_default();
        if account.held == 0 {
            self.idle.remove(&(account.counter, Tenant::clone(tenant)));
        }
        if account.waiting == 0 {
            account.counter = account.counter.max(self.level);
        }
        account.waiting += 1;
        account.held += 1;
        self.forget();
    }

    /// Notes that a waiting request was admitted, and what of its prompt has to be computed.
    pub(super) fn admit(&mut self, tenant: &Tenant, prompt_tokens: usize) {
        let price = self.prices.prefill;
        self.change(tenant, |account| {
            account.counter += price * prompt_tokens as u64;
            account.waiting -= 1;
        });
        if self.accounts.get(tenant).is_some_and(|account| account.waiting == 0) {
            self.last_admitted = Some(Tenant::clone(tenant));
        }
    }

    /// Charges a prompt's tokens that are admitted for the second time.
    pub(super) fn readmit(&mut self, tenant: &Tenant, prompt_tokens: usize) {
        let price = self.prices.prefill;
        self.change(tenant, |account| account.counter += price * prompt_tokens as u64);
    }

    /// Charges generated tokens.
    pub(super) fn generated(&mut self, tenant: &Tenant, tokens: usize) {
        let price = self.prices.decode;
        self.change(tenant, |account| account.counter += price * tokens as u64);
    }

    /// Pays back what was charged for a prompt's tokens that were not computed.
    pub(super) fn pay_back(&mut self, tenant: &Tenant, prompt_tokens: usize) {
        let price = self.prices.prefill;
        self.change(tenant, |account| account.counter -= price * prompt_tokens as u64);
    }

    /// Notes that a request has left; `waited` where it had not been admitted.
    pub(super) fn leave(&mut self, tenant: &Tenant, waited: bool) {
        self.change(tenant, |account| {
            account.waiting -= usize::from(waited);
            account.held -= 1;
        });
        match self.accounts.get(tenant) {
            Some(Account { held: 0, counter, .. }) => self.idle.insert((*counter, Tenant::clone(tenant))),
            _ => false,
        };
        self.forget();
    }

    /// What the tenant was served.
    pub(super) fn counter(&self, tenant: &Tenant) -> u64 {
        self.accounts.get(tenant).map_or(self.level, |account| account.counter)
    }

    /// How many tenants are known.
    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }

    fn change(&mut self, tenant: &Tenant, change: impl FnOnce(&mut Account)) {
        let account = self.accounts.get_mut(tenant);
        debug_assert!(account.is_some(), "a tenant without an account has a request");
        if let Some(account) = account {
            change(account);
        }
    }

    fn forget(&mut self) {
        while let Some((counter, _)) = self.idle.first() {
            if *counter > self.level && self.idle.len() <= self.prices.max_idle_tenants {
                return;
            }
            if let Some((_, tenant)) = self.idle.pop_first() {
                self.accounts.remove(&tenant);
            }
        }
    }
}
