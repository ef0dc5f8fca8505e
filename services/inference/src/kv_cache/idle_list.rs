//! Blocks that nobody holds but whose content may be asked for again, in the order in which they became so.

use crate::model::BlockId;

/// No block.
const NONE: BlockId = BlockId::MAX;

/// A list through an array of links: a block enters at the end, and leaves from anywhere, in O(1).
#[derive(Debug)]
pub(super) struct IdleList {
    /// For each block, who stands before and after it. Meaningless for blocks that are not in the list.
    links: Vec<Link>,
    oldest: BlockId,
    newest: BlockId,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    older: BlockId,
    newer: BlockId,
}

impl IdleList {
    /// An empty list of at most `blocks` blocks.
    pub(super) fn new(blocks: u32) -> Self {
        let alone = Link { older: NONE, newer: NONE };
        Self { links: vec![alone; blocks as usize], oldest: NONE, newest: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends a block that is not in the list.
    pub(super) fn push(&mut self, block: BlockId) {
        self.links[block as usize] = Link { older: self.newest, newer: NONE };
        match self.newest {
            NONE => self.oldest = block,
            newest => self.links[newest as usize].newer = block,
        }
        self.newest = block;
        self.len += 1;
    }

    /// Takes out a block that is in the list.
    pub(super) fn remove(&mut self, block: BlockId) {
        let Link { older, newer } = self.links[block as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        self.len -= 1;
    }

    /// Takes out the block that has been in the list longest.
    pub(super) fn pop_oldest(&mut self) -> Option<BlockId> {
        let oldest = (self.oldest != NONE).then_some(self.oldest)?;
        self.remove(oldest);
        Some(oldest)
    }
}
