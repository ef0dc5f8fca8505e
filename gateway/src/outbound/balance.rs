//! Which replica of inference gets a generation: the one that has most of its prompt in its cache, unless it has more than
//! its share of the work; where none has a good part of it, one that knows its adapter; else the less loaded of two.
//!
//! What a replica has is not asked but remembered: `prefixes` keeps what each was sent. A replica that was away has
//! nothing any more. Load is streams that have not ended. Prompts that nobody has are spread by load, so that many new
//! ones do not run to one replica; and however good a match is, no replica gets more than the bound allows.

mod prefixes;

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Extensions;
use weft_runtime::client::{Balance, Candidate, ReplicaId, TwoChoices};

use crate::{
    config,
    metrics::{Choices, choices::Reason},
};
use prefixes::Prefixes;
pub(super) use prefixes::Route;

/// The policy.
#[derive(Debug)]
pub(super) struct PrefixAware {
    config: config::Balance,
    prefixes: Mutex<Prefixes>,
    by_load: TwoChoices,
    choices: Choices,
}

impl PrefixAware {
    pub(super) fn new(config: config::Balance, choices: &Choices) -> Self {
        let prefixes = Mutex::new(Prefixes::new(config.max_blocks, config.forget_after));
        Self { config, prefixes, by_load: TwoChoices::default(), choices: choices.clone() }
    }

    /// The place of the candidate that suits the route best, and why.
    fn decide(&self, route: &Route, call: &Extensions, candidates: &[Candidate]) -> (usize, Reason) {
        let prefixes = self.prefixes();
        let matched = prefixes.matched(route, candidates);
        let bound = self.bound(candidates);
        let has_room = |place: &usize| candidates[*place].load < bound;
        let known: Vec<usize> =
            (0..candidates.len()).filter(|place| self.is_good(matched[*place], route)).collect();
        if let Some(best) = best(known.iter().copied().filter(has_room), &matched, candidates) {
            return (best, Reason::Prefix);
        }
        if let Some(adapter) = route.adapter {
            let has = |place: &usize| prefixes.has(adapter, candidates[*place].id);
            let knows = (0..candidates.len())
                .filter(has_room)
                .filter(has)
                .min_by_key(|place| candidates[*place].load);
            if let Some(knows) = knows {
                return (knows, Reason::Adapter);
            }
        }
        drop(prefixes);
        let reason = if known.is_empty() { Reason::Load } else { Reason::Bound };
        (self.by_load.choose(call, candidates), reason)
    }

    /// Whether so many blocks are worth going where they are.
    fn is_good(&self, matched: usize, route: &Route) -> bool {
        matched > 0 && matched as f64 >= self.config.min_match * route.blocks.len() as f64
    }

    /// Load below which a replica may be given more for the sake of its cache.
    fn bound(&self, candidates: &[Candidate]) -> usize {
        let sum: usize = candidates.iter().map(|candidate| candidate.load).sum();
        let mean = sum as f64 / candidates.len().max(1) as f64;
        (mean * self.config.load_factor).ceil() as usize + self.config.load_slack
    }

    fn prefixes(&self) -> MutexGuard<'_, Prefixes> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest match; among equals the least load.
fn best(places: impl Iterator<Item = usize>, matched: &[usize], candidates: &[Candidate]) -> Option<usize> {
    places.min_by_key(|place| (std::cmp::Reverse(matched[*place]), candidates[*place].load))
}

impl Balance for PrefixAware {
    fn choose(&self, call: &Extensions, candidates: &[Candidate]) -> usize {
        let Some(route) = call.get::<Route>() else { return self.by_load.choose(call, candidates) };
        let (place, reason) = self.decide(route, call, candidates);
        if let Some(chosen) = candidates.get(place) {
            let mut prefixes = self.prefixes();
            prefixes.note(route, chosen.id);
            self.choices.count(reason, prefixes.len());
        }
        place
    }

    fn keep(&self, replicas: &[ReplicaId]) {
        self.prefixes().keep(replicas);
    }

    fn forget(&self, replica: ReplicaId) {
        self.prefixes().forget(replica);
    }
}

#[cfg(test)]
mod tests;
