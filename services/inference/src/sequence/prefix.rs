//! What a sequence shares with others: the blocks of its beginning.
//!
//! It takes over what others have computed before its own rows are planned, again before each chunk of its prompt, and
//! lets others find each of its blocks that a step has filled. Its last token is always its own to compute: what the
//! model says of it is what the sequence came for.

use std::collections::HashSet;

use super::Sequence;
use crate::kv_cache::{BlockHash, BlockPool, Chain};

/// A sequence's part in the prefix cache.
#[derive(Debug)]
pub(super) struct Prefix {
    chain: Chain,
    /// Blocks that were published or taken over.
    settled: usize,
    /// Tokens of the prompt that were taken over from others.
    cached: usize,
}

impl<T> Sequence<T> {
    /// The same, sharing blocks with every sequence that has this root.
    #[must_use]
    pub fn sharing(mut self, root: Option<BlockHash>) -> Self {
        self.prefix = root.map(|root| Prefix { chain: Chain::new(root), settled: 0, cached: 0 });
        self
    }

    /// Whether it shares blocks.
    pub(crate) fn shares(&self) -> bool {
        self.prefix.is_some()
    }

    /// Tokens of its prompt that it did not need to compute, because others had. What it finds again of its own after
    /// a preemption does not count.
    pub fn cached(&self) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.cached)
    }

    /// Takes blocks for all its tokens, those that others have computed first. Leaves all as it was and answers `false`
    /// where fewer than `spared` would then be free.
    pub(crate) fn settle_in(&mut self, spared: usize, pool: &mut BlockPool) -> bool {
        debug_assert!(self.table.is_empty() && self.computed == 0, "it has blocks already");
        let (found, idle) = self.look_up(pool);
        let missing = pool.blocks_for(self.tokens.len()) - found;
        if missing + idle + spared > pool.free() {
            return false;
        }
        self.catch_up(pool);
        let grown = self.table.grow_to(self.tokens.len(), pool);
        debug_assert!(grown, "there were blocks enough a moment ago");
        grown
    }

    /// Tokens that it would have to compute if it ran now.
    pub(crate) fn left_to_compute(&mut self, pool: &BlockPool) -> usize {
        let found = self.look_up(pool).0 * pool.block_size();
        self.tokens.len() - found.max(self.computed)
    }

    /// How many blocks of its beginning are there, and how many of these nobody holds.
    fn look_up(&mut self, pool: &BlockPool) -> (usize, usize) {
        let (mut found, mut idle) = (0, 0);
        while let Some(block) = self.shareable(found, pool).and_then(|name| pool.find(&name)) {
            found += 1;
            idle += usize::from(pool.is_free(block));
        }
        (found, idle)
    }

    /// The name of its `index`-th block, if it may take that over from others.
    fn shareable(&mut self, index: usize, pool: &BlockPool) -> Option<BlockHash> {
        let size = pool.block_size();
        let last = self.tokens.len() - 1;
        // A row that is to be judged has to be computed, whatever the cache holds already.
        let judged = self.scored >= self.to_score().min((index + 1) * size);
        let prefix = self.prefix.as_mut().filter(|_| judged && index < last / size)?;
        Some(prefix.chain.hash(index, &self.tokens, size))
    }

    /// Takes over what others have computed of what it would compute next.
    pub(crate) fn catch_up(&mut self, pool: &mut BlockPool) {
        let size = pool.block_size();
        let before = self.computed;
        loop {
            let index = self.computed / size;
            let Some(block) = self.shareable(index, pool).and_then(|name| pool.find(&name)) else { break };
            self.table.adopt(index, block, pool);
            self.computed = (index + 1) * size;
        }
        if let Some(prefix) = &mut self.prefix
            && self.computed > before
        {
            prefix.settled = self.computed / size;
            if self.preemptions == 0 {
                prefix.cached += self.computed.min(self.prompt_len).saturating_sub(before);
            }
        }
    }

    /// Whether what it would compute next is among `underway`: others compute it in the same step.
    pub(crate) fn awaits(&mut self, underway: &HashSet<BlockHash>, pool: &BlockPool) -> bool {
        let next = self.computed / pool.block_size();
        !underway.is_empty() && self.shareable(next, pool).is_some_and(|name| underway.contains(&name))
    }

    /// Notes in `underway` the blocks that its next `rows` rows fill.
    pub(crate) fn announce(&mut self, rows: usize, underway: &mut HashSet<BlockHash>, pool: &BlockPool) {
        let size = pool.block_size();
        let filled = self.computed / size..(self.computed + rows) / size;
        if let Some(prefix) = &mut self.prefix {
            underway.extend(filled.map(|index| prefix.chain.hash(index, &self.tokens, size)));
        }
    }

    /// Lets others find the blocks that are full by now.
    pub(crate) fn publish(&mut self, pool: &mut BlockPool) {
        let Some(prefix) = &mut self.prefix else { return };
        let full = self.computed / pool.block_size();
        for index in prefix.settled..full {
            let name = prefix.chain.hash(index, &self.tokens, pool.block_size());
            self.table.publish(index, name, pool);
        }
        prefix.settled = prefix.settled.max(full);
    }
}

impl Prefix {
    /// Notes that the sequence has no blocks any more.
    pub(super) fn forget(&mut self) {
        self.settled = 0;
    }
}
