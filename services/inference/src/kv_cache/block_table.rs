//! Which blocks a sequence holds.

use super::{BlockHash, BlockPool};
use crate::model::BlockId;

/// The blocks of one sequence, in the order of its positions.
///
/// While a step runs the table is lent to the batch, so that no step copies it; the sequence still counts as the
/// holder. A table that still holds blocks must be released, not dropped.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    /// Grows the table so that it covers positions `0..tokens`, or leaves it as it is and answers `false` where the
    /// pool has too few blocks.
    pub fn grow_to(&mut self, tokens: usize, pool: &mut BlockPool) -> bool {
        let missing = pool.blocks_for(tokens).saturating_sub(self.blocks.len());
        missing == 0 || pool.take(missing, &mut self.blocks)
    }

    /// Puts a block that others have computed at `index`, which may be the next. What stood there is given back.
    pub fn adopt(&mut self, index: usize, block: BlockId, pool: &mut BlockPool) {
        pool.hold(block);
        match self.blocks.get_mut(index) {
            Some(own) => pool.let_go(std::mem::replace(own, block)),
            None => self.blocks.push(block),
        }
        debug_assert_eq!(self.blocks.get(index), Some(&block), "a table has no gaps");
    }

    /// Lets others find the block at `index`, which is full, under this name.
    pub fn publish(&self, index: usize, name: BlockHash, pool: &mut BlockPool) {
        pool.publish(self.blocks[index], name);
    }

    /// Makes sure that nobody new finds any of the blocks.
    pub fn retract(&self, pool: &mut BlockPool) {
        self.blocks.iter().for_each(|block| pool.retract(*block));
    }

    /// Gives every block back.
    pub fn release(&mut self, pool: &mut BlockPool) {
        pool.give_back(&mut self.blocks);
    }

    /// Lends the blocks to a batch; until they are restored the table is empty.
    pub fn lend(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.blocks)
    }

    /// Takes back what was lent.
    pub fn restore(&mut self, blocks: Vec<BlockId>) {
        debug_assert!(self.blocks.is_empty(), "a table was restored over another");
        self.blocks = blocks;
    }

    /// Blocks held.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
