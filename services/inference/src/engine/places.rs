//! Places: one for each request that is held, running or waiting, and how many of them one tenant may have.
//!
//! A tenant with a name has at most its share, so that nobody can fill the queue alone. Those without a name cannot be
//! told apart, and may have all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sequence::Tenant;

/// All places of an engine.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    capacity: usize,
    /// The most that a tenant with a name may have.
    share: usize,
    /// What tenants with a name have.
    held: Mutex<HashMap<Tenant, usize>>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All are taken.
    All {
        /// How many are.
        held: usize,
        /// How many there are.
        capacity: usize,
    },
    /// The tenant has its share.
    Share {
        /// How many it has.
        held: usize,
        /// How many it may have.
        share: usize,
    },
}

/// Some places of one tenant. Dropping it makes them free.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    places: Arc<Places>,
    tenant: Tenant,
    count: usize,
}

impl Places {
    /// `capacity` places, of which a tenant with a name may have `share`.
    pub(crate) fn new(capacity: usize, share: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(capacity));
        Arc::new(Self { free, capacity, share, held: Mutex::default() })
    }

    /// Takes `count` places, all or none.
    pub(super) fn take(self: &Arc<Self>, count: usize, tenant: &Tenant) -> Result<Place, Full> {
        let mut held = self.held();
        let of_tenant = held.get(tenant).copied().unwrap_or(0);
        if !tenant.is_empty() && of_tenant + count > self.share {
            return Err(Full::Share { held: of_tenant, share: self.share });
        }
        let permits = u32::try_from(count).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(permits) else {
            let taken = self.capacity - self.free.available_permits();
            return Err(Full::All { held: taken, capacity: self.capacity });
        };
        if !tenant.is_empty() {
            held.insert(Tenant::clone(tenant), of_tenant + count);
        }
        Ok(Place { _permit: permit, places: Arc::clone(self), tenant: Tenant::clone(tenant), count })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Tenant, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// One of the places by itself; `None` where this is none.
    pub(super) fn split_one(&mut self) -> Option<Self> {
        let permit = self._permit.split(1)?;
        self.count -= 1;
        let (places, tenant) = (Arc::clone(&self.places), Tenant::clone(&self.tenant));
        Some(Self { _permit: permit, places, tenant, count: 1 })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        if let Some(count) = held.get_mut(&self.tenant) {
            *count -= self.count;
            if *count == 0 {
                held.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_with_a_name_has_its_share_and_the_rest_is_for_others() {
        let places = Places::new(10, 4);
        let (one, other, nobody) = (Tenant::from("one"), Tenant::from("other"), Tenant::default());
        let mut three = places.take(3, &one).unwrap();
        let single = three.split_one().unwrap();
        assert_eq!(places.take(2, &one).unwrap_err(), Full::Share { held: 3, share: 4 });
        let _other = places.take(4, &other).unwrap();
        let _nobody = places.take(3, &nobody).unwrap();
        assert_eq!(places.take(1, &nobody).unwrap_err(), Full::All { held: 10, capacity: 10 });
        drop(single);
        assert!(places.take(2, &nobody).is_err(), "one is free, not two");
        drop(three);
        assert!(places.take(4, &one).is_err(), "three are free, not four");
        assert!(places.take(3, &one).is_ok());
        assert_eq!(places.held().len(), 1, "nothing is kept of those who left");
    }
}
