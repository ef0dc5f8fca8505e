//! What each replica was sent, block by block.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hasher as _},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;
use weft_runtime::client::{Candidate, ReplicaId};

/// What of a generation decides where it goes. In the extensions of its request.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Names of the blocks of its prompt, each of which stands for all before it too, and for whose cache it is.
    pub(super) blocks: Arc<[u64]>,
    /// The name of its adapter.
    pub(super) adapter: Option<u64>,
}

impl Route {
    /// Of the whole prompt, in blocks of so many tokens. Only prompts of one salt and adapter share anything.
    pub(crate) fn of(prompt: &[u32], salt: &str, adapter: Option<&str>, block_tokens: usize) -> Self {
        let mut name = hash(&(salt, adapter));
        let blocks = prompt.chunks_exact(block_tokens).map(|block| {
            name = hash(&(name, block));
            name
        });
        Self { blocks: blocks.collect(), adapter: adapter.map(|adapter| hash(&("adapter", adapter))) }
    }
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Who was sent which blocks lately. Forgets what was asked for longest ago.
#[derive(Debug)]
pub(super) struct Prefixes {
    holders: LruCache<u64, Vec<Holder>>,
    forget_after: Duration,
    /// The life that each replica is in: what it was sent in another is gone.
    lives: HashMap<ReplicaId, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    replica: ReplicaId,
    life: u32,
    sent: Instant,
}

impl Prefixes {
    pub(super) fn new(max_blocks: NonZeroUsize, forget_after: Duration) -> Self {
        Self { holders: LruCache::new(max_blocks), forget_after, lives: HashMap::new() }
    }

    /// For each candidate, how many blocks from the route's beginning it has.
    pub(super) fn matched(&self, route: &Route, candidates: &[Candidate]) -> Vec<usize> {
        let mut matched = vec![0; candidates.len()];
        for (index, block) in route.blocks.iter().enumerate() {
            let mut any = false;
            for (count, candidate) in matched.iter_mut().zip(candidates) {
                if *count == index && self.has(*block, candidate.id) {
                    *count += 1;
                    any = true;
                }
            }
            if !any {
                break;
            }
        }
        matched
    }

    /// Whether a replica was sent this, and still has it as far as one can know.
    pub(super) fn has(&self, name: u64, replica: ReplicaId) -> bool {
        let holders = self.holders.peek(&name).map_or(&[][..], Vec::as_slice);
        holders.iter().any(|holder| holder.replica == replica && self.is_current(holder))
    }

    /// A replica is sent this.
    pub(super) fn note(&mut self, route: &Route, replica: ReplicaId) {
        let holder = Holder { replica, life: self.life(replica), sent: Instant::now() };
        // Backwards: the beginning, which most share, is to be forgotten last.
        for name in route.blocks.iter().rev().chain(&route.adapter) {
            let mut holders = self.holders.pop(name).unwrap_or_default();
            holders.retain(|other| other.replica != replica && self.is_current(other));
            holders.push(holder);
            self.holders.push(*name, holders);
        }
    }

    /// Blocks that are remembered.
    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    /// A replica has lost what it had.
    pub(super) fn forget(&mut self, replica: ReplicaId) {
        *self.lives.entry(replica).or_default() += 1;
    }

    /// These are all replicas there are.
    pub(super) fn keep(&mut self, replicas: &[ReplicaId]) {
        self.lives.retain(|replica, _| replicas.contains(replica));
    }

    fn life(&self, replica: ReplicaId) -> u32 {
        self.lives.get(&replica).copied().unwrap_or_default()
    }

    fn is_current(&self, holder: &Holder) -> bool {
        holder.life == self.life(holder.replica) && holder.sent.elapsed() < self.forget_after
    }
}
