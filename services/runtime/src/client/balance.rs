//! Which of several replicas gets a call.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use http::Extensions;

/// Names a replica as long as this process lives. No two ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// The replicas that were given one call, attempt after attempt. In the extensions of each attempt's request: none gets
/// the call again while there is another. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Tried(Arc<Mutex<Vec<ReplicaId>>>);

impl Tried {
    /// Who has the call now, or had it last.
    pub fn last(&self) -> Option<ReplicaId> {
        self.lock().last().copied()
    }

    /// The same for another call, of which only the last is known: the others may be well again.
    #[must_use]
    pub fn of_last(&self) -> Self {
        Self(Arc::new(Mutex::new(self.last().into_iter().collect())))
    }

    pub(super) fn note(&self, replica: ReplicaId) {
        self.lock().push(replica);
    }

    pub(super) fn has(&self, replica: ReplicaId) -> bool {
        self.lock().contains(&replica)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ReplicaId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub id: ReplicaId,
    /// Calls whose stream has not ended, and what recent failures weigh.
    pub load: usize,
}

/// Decides which replica a call goes to.
pub trait Balance: std::fmt::Debug + Send + Sync {
    /// The place in `candidates`, of which there is at least one, of the replica that gets the call with these
    /// extensions. A place that is not there means the first.
    fn choose(&self, call: &Extensions, candidates: &[Candidate]) -> usize;

    /// These are all replicas that there are now: what is known of others can be forgotten.
    fn keep(&self, _replicas: &[ReplicaId]) {}

    /// This one was away: what it held is lost.
    fn forget(&self, _replica: ReplicaId) {}
}

/// The less loaded of two random ones (P2C): nearly as even as asking everybody, and no herd runs to the one replica
/// that was idle a moment ago.
#[derive(Debug, Default)]
pub struct TwoChoices {
    draws: AtomicU64,
}

impl Balance for TwoChoices {
    fn choose(&self, _: &Extensions, candidates: &[Candidate]) -> usize {
        let Some((first, second)) = two_of(candidates.len(), self.draws.fetch_add(1, Ordering::Relaxed))
        else {
            return 0;
        };
        if candidates[second].load < candidates[first].load { second } else { first }
    }
}

/// Two different places below `count` (the same if there is only one), evenly spread over the draws.
fn two_of(count: usize, draw: u64) -> Option<(usize, usize)> {
    // The finisher of splitmix64 (Steele et al., OOPSLA 2014): no lock, and a draw can be repeated in a test.
    let mixed = draw.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let first = (mixed >> 32) as usize % count.max(1);
    let step = match count {
        0 => return None,
        1 => 0,
        more => 1 + (mixed as u32) as usize % (more - 1),
    };
    Some((first, (first + step) % count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_different_places_are_drawn_evenly() {
        let mut drawn = [0; 5];
        for draw in 0..10_000 {
            let (first, second) = two_of(5, draw).unwrap();
            assert_ne!(first, second);
            drawn[first] += 1;
            drawn[second] += 1;
        }
        assert!(drawn.iter().all(|count| (3_600..4_400).contains(count)), "{drawn:?}");
        assert_eq!(two_of(1, 7), Some((0, 0)));
        assert_eq!(two_of(0, 7), None);
    }

    #[test]
    fn calls_that_come_one_at_a_time_are_spread_too() {
        let idle: Vec<_> = (0..4).map(|id| Candidate { id: ReplicaId(id), load: 0 }).collect();
        let (policy, mut chosen) = (TwoChoices::default(), [0; 4]);
        for _ in 0..400 {
            chosen[policy.choose(&Extensions::new(), &idle)] += 1;
        }
        assert!(chosen.iter().all(|count| (60..140).contains(count)), "{chosen:?}");
    }
}
