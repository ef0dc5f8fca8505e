//! How much a tenant may use of a model: requests and tokens within a window, and requests at once.
//!
//! Map: `config` (`[quota]` and the limits file), `window` (what happened lately), `account` (what one tenant has used of one
//! model; pure), `reservation` (what a request holds), `error`, `metrics`.
//!
//! Rules: before a token can be generated it is reserved, from the exact length of the prompt and `max_tokens`; inference is
//! told how many were, and stops there; what is not used comes back when the request is over, however that comes about. So
//! what is used and reserved together is never above the limit, at no instant. A request that does not say `max_tokens`
//! reserves what the model's context holds, or what is left of the quota if that is less; an answer that ends there ends with
//! LENGTH and says that the quota was reached. A caller pays what its `usage` says; for an answer that it leaves, what
//! came until then, and for one that it leaves before it began (or whose deadline passes there), the prompt, once that is
//! on its way to the model. What the mesh could not begin costs nothing. What it had no room for, or nobody to answer it, is
//! not even a request: who comes back when he was told to must not find his requests used up. Moderation is a request, of
//! the policy as if that were a model, and of no tokens.
//!
//! A gateway keeps accounts in its own memory: of several, each grants the limits.

mod account;
mod config;
mod error;
mod metrics;
mod reservation;
#[cfg(test)]
mod tests;
mod window;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use weft_runtime::{BoxError, Context};

use super::{tenant::Tenant, watched::Watched};
use crate::{error::Error, metrics::Metrics};
use account::{Account, Refusal, Wish};
use config::{LimitTable, Limits};
use metrics::QuotaMetrics;
use window::Clock;

pub(crate) use config::QuotaConfig;
pub(crate) use error::Exceeded;
pub(crate) use reservation::{Lease, Reservation, charged, held};

/// Keeps the accounts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Quotas {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: QuotaConfig,
    clock: Clock,
    /// `None`: nothing is limited.
    limits: Option<Arc<Watched<LimitTable>>>,
    accounts: Mutex<HashMap<Key, Arc<Shared>>>,
    metrics: QuotaMetrics,
}

/// Whose account with which model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Empty for callers that are not known.
    tenant: String,
    model: String,
}

/// An account that requests share.
#[derive(Debug)]
struct Shared {
    key: Key,
    account: Mutex<Account>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quotas {
    /// Reads the limits, and watches them.
    ///
    /// # Errors
    /// A file that is not usable.
    pub(crate) fn new(config: &QuotaConfig, context: &Context, metrics: &Metrics) -> Result<Self, BoxError> {
        let open = |file| Watched::open("quota limits", file, metrics.reloads.clone(), LimitTable::read);
        let limits = config.limits.clone().map(open).transpose()?;
        if let Some(limits) = &limits {
            limits.watch(context);
        }
        let inner = Inner {
            config: config.clone(),
            clock: Clock::new(config.window, Instant::now()),
            limits,
            accounts: Mutex::default(),
            metrics: QuotaMetrics::default(),
        };
        let this = Self { inner: Arc::new(inner) };
        metrics::register(&this, &context.metrics);
        Ok(this)
    }

    /// Lets a request of a tenant for a model begin.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`.
    pub(crate) fn begin(&self, tenant: &Tenant, model: &str) -> Result<Lease, Error> {
        let Some(table) = self.table() else { return Ok(Lease::unlimited()) };
        let key = Key { tenant: tenant.name().unwrap_or_default().to_owned(), model: model.to_owned() };
        let account = self.account(key)?;
        let limits = table.of(&account.key.tenant, model);
        let begun = account.lock().begin(&limits, Instant::now());
        let noted = begun.map_err(|refusal| self.refused(&account.key, refusal))?;
        Ok(Lease::new(self.clone(), account, noted))
    }

    fn reserve(&self, account: &Shared, wish: Wish) -> Result<u64, Error> {
        let Key { tenant, model } = &account.key;
        let limits = self.table().map_or_else(Limits::default, |table| table.of(tenant, model));
        let reserved = account.lock().reserve(&limits, wish, Instant::now());
        reserved.map_err(|refusal| self.refused(&account.key, refusal))
    }

    fn table(&self) -> Option<Arc<LimitTable>> {
        self.inner.limits.as_ref().map(|limits| limits.now())
    }

    fn account(&self, key: Key) -> Result<Arc<Shared>, Error> {
        let mut accounts = self.accounts();
        if let Some(account) = accounts.get(&key) {
            return Ok(Arc::clone(account));
        }
        let limit = self.inner.config.max_accounts;
        if accounts.len() >= limit {
            let now = Instant::now();
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.lock().is_idle(now));
        }
        if accounts.len() >= limit {
            let used = accounts.len() as u64;
            drop(accounts);
            return Err(self.refused(&key, Refusal::of_accounts(limit as u64, used)));
        }
        let account = Mutex::new(Account::new(self.inner.clock));
        let account = Arc::new(Shared { key: key.clone(), account });
        accounts.insert(key, Arc::clone(&account));
        Ok(account)
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Key, Arc<Shared>>> {
        self.inner.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refusal, and puts it into words.
    fn refused(&self, key: &Key, refusal: Refusal) -> Error {
        let named = self.table().is_some_and(|table| table.names(&key.tenant));
        self.inner.metrics.count(if named { &key.tenant } else { metrics::OTHER }, refusal.kind);
        let Key { tenant, model } = key.clone();
        Error::Quota(Box::new(Exceeded { tenant, model, window: self.inner.config.window, refusal }))
    }
}
