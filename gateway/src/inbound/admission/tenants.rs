//! What each tenant has in the room, and what its fair share of it is.
//!
//! A tenant counts from its first request until a few seconds after its last: one that asks now and then keeps its claim
//! meanwhile, and finds room.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::Load;
use crate::inbound::tenant::Tenant;

/// How long a tenant counts that has nothing here any more.
const REMEMBERED: Duration = Duration::from_secs(5);
/// How often those are looked for that do not count any more.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Account {
    used: Load,
    waiting: usize,
    last_left: Instant,
}

/// The accounts of all tenants that count.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    accounts: HashMap<Tenant, Account>,
    swept: Option<Instant>,
}

impl Tenants {
    /// A request of this tenant arrives, and waits.
    pub(super) fn arrive(&mut self, tenant: &Tenant, now: Instant) {
        self.sweep(now);
        let new = || Account { used: Load::default(), waiting: 0, last_left: now };
        self.accounts.entry(tenant.clone()).or_insert_with(new).waiting += 1;
    }

    /// It waits no longer: it is let in (with a load), or it is not.
    pub(super) fn stop_waiting(&mut self, tenant: &Tenant, let_in: Option<Load>, now: Instant) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.waiting -= 1;
            account.used += let_in.unwrap_or_default();
            account.last_left = now;
        }
    }

    /// The load of a request that was let in turned out to be another.
    pub(super) fn change(&mut self, tenant: &Tenant, from: Load, to: Load) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.used -= from;
            account.used += to;
        }
    }

    /// A request that was let in is over.
    pub(super) fn leave(&mut self, tenant: &Tenant, load: Load, now: Instant) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.used -= load;
            account.last_left = now;
        }
    }

    /// What a tenant has in the room.
    pub(super) fn used(&self, tenant: &Tenant) -> Load {
        self.accounts.get(tenant).map_or(Load::default(), |account| account.used)
    }

    /// Tenants that count.
    pub(super) fn count(&self) -> usize {
        self.accounts.len()
    }

    /// Whether a tenant with this load more would have more than its fair share of the room, which others claim too.
    pub(super) fn beyond_share(&self, tenant: &Tenant, more: Load, room: Load) -> bool {
        let share = self.share(room);
        let with = self.used(tenant) + more;
        // One request at a time is always fair.
        self.count() > 1
            && with.requests > 1
            && (with.requests > share.requests || with.tokens > share.tokens)
    }

    /// The fair share of each tenant.
    pub(super) fn share(&self, room: Load) -> Load {
        let count = self.count().max(1) as u64;
        Load { requests: room.requests.div_ceil(count), tokens: room.tokens.div_ceil(count) }
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|last| now - last < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.accounts.retain(|_, account| {
            account.used.requests + account.waiting as u64 > 0 || now - account.last_left < REMEMBERED
        });
    }
}
