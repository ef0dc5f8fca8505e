//! Which blocks are free.

use crate::model::BlockId;

/// The free blocks of the cache.
///
/// A stack: the block freed last is taken first, while its memory is still warm in the processor's caches.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<BlockId>,
    total: usize,
    block_size: usize,
}

impl BlockPool {
    /// A pool of `total` free blocks of `block_size` tokens each.
    pub fn new(total: u32, block_size: usize) -> Self {
        Self { free: (0..total).rev().collect(), total: total as usize, block_size }
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many blocks `tokens` tokens take.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// Moves `count` free blocks to the end of `holder`, or none and answers `false` where there are not so many.
    pub(super) fn take(&mut self, count: usize, holder: &mut Vec<BlockId>) -> bool {
        let Some(kept) = self.free.len().checked_sub(count) else { return false };
        holder.extend(self.free.drain(kept..).rev());
        true
    }

    /// Makes all blocks of `holder` free; the one it took last will be taken last.
    pub(super) fn give_back(&mut self, holder: &mut Vec<BlockId>) {
        self.free.extend(holder.drain(..).rev());
        debug_assert!(self.free.len() <= self.total, "more blocks were given back than exist");
    }
}
