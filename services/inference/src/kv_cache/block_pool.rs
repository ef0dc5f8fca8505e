//! Which blocks are free, which are held and how often, and what the full ones hold.

use std::collections::{HashMap, hash_map::Entry};

use super::{BlockHash, idle_list::IdleList};
use crate::model::BlockId;

/// The blocks of the cache.
///
/// A block is *held* by one table or several, or else free: *blank* if nothing is known of its content, *idle* if its
/// content has a name and may be asked for again. Blank blocks are taken first, the one freed last before the others,
/// while its memory is still warm in the processor's caches; then idle ones, the one idle longest before the others, and
/// its name is forgotten. A block that has a name is never written.
#[derive(Debug)]
pub struct BlockPool {
    /// For each block, how many tables hold it.
    holders: Vec<u32>,
    /// For each block, the name of what it holds, if it can be found by it.
    names: Vec<Option<BlockHash>>,
    /// Where what has a name is. The map's own hash is keyed: a caller cannot aim at its buckets.
    named: HashMap<BlockHash, BlockId>,
    blank: Vec<BlockId>,
    idle: IdleList,
    block_size: usize,
    evictions: u64,
}

impl BlockPool {
    /// A pool of `total` blank blocks of `block_size` tokens each.
    pub fn new(total: u32, block_size: usize) -> Self {
        Self {
            holders: vec![0; total as usize],
            names: vec![None; total as usize],
            named: HashMap::new(),
            blank: (0..total).rev().collect(),
            idle: IdleList::new(total),
            block_size,
            evictions: 0,
        }
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that nobody holds, whether or not their content may be asked for again.
    pub fn free(&self) -> usize {
        self.blank.len() + self.idle.len()
    }

    /// Free blocks whose content may be asked for again.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How often the content of a free block gave way to another's, so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// How many blocks `tokens` tokens take.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// The block that holds this, if there is one.
    pub fn find(&self, name: &BlockHash) -> Option<BlockId> {
        self.named.get(name).copied()
    }

    /// Whether nobody holds the block.
    pub fn is_free(&self, block: BlockId) -> bool {
        self.holders[block as usize] == 0
    }

    /// Moves `count` free blocks to the end of `holder`, or none and answers `false` where there are not so many.
    pub(super) fn take(&mut self, count: usize, holder: &mut Vec<BlockId>) -> bool {
        if count > self.free() {
            return false;
        }
        holder.extend(std::iter::from_fn(|| self.take_one()).take(count));
        true
    }

    fn take_one(&mut self) -> Option<BlockId> {
        let block = self.blank.pop().or_else(|| self.evict())?;
        self.holders[block as usize] = 1;
        Some(block)
    }

    fn evict(&mut self) -> Option<BlockId> {
        let block = self.idle.pop_oldest()?;
        self.forget_name(block);
        self.evictions += 1;
        Some(block)
    }

    /// Notes one more holder of a block that has a name.
    pub(super) fn hold(&mut self, block: BlockId) {
        debug_assert!(self.names[block as usize].is_some(), "block {block} has no content to share");
        let holders = &mut self.holders[block as usize];
        if *holders == 0 {
            self.idle.remove(block);
        }
        *holders += 1;
    }

    /// Notes one holder less.
    pub(super) fn let_go(&mut self, block: BlockId) {
        let holders = &mut self.holders[block as usize];
        debug_assert!(*holders > 0, "block {block} was given back by somebody who did not hold it");
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        match self.names[block as usize] {
            Some(_) => self.idle.push(block),
            None => self.blank.push(block),
        }
    }

    /// Lets go of all blocks of `holder`, the last first: where some must give way later, the end of a prefix does
    /// before its beginning, without which it is of no use.
    pub(super) fn give_back(&mut self, holder: &mut Vec<BlockId>) {
        while let Some(block) = holder.pop() {
            self.let_go(block);
        }
    }

    /// Gives a held block that is full a name by which others find it. Where another block has that name, nothing
    /// changes: this one stays its holder's own.
    pub(super) fn publish(&mut self, block: BlockId, name: BlockHash) {
        debug_assert!(self.holders[block as usize] > 0, "block {block} was published by nobody");
        if let Entry::Vacant(place) = self.named.entry(name)
            && self.names[block as usize].is_none()
        {
            place.insert(block);
            self.names[block as usize] = Some(name);
        }
    }

    /// Takes a held block's name away: nobody new finds it.
    pub(super) fn retract(&mut self, block: BlockId) {
        debug_assert!(self.holders[block as usize] > 0, "block {block} was retracted by nobody");
        self.forget_name(block);
    }

    fn forget_name(&mut self, block: BlockId) {
        if let Some(name) = self.names[block as usize].take() {
            self.named.remove(&name);
        }
    }
}
