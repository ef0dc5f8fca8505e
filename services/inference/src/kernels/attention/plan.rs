//! What attention needs to know of a step: checked and laid out once, used by every layer.

use std::ops::Range;

use super::shares::share_blocks;
use crate::kernels::cache::Geometry;

/// Queries of one item of work: enough to reuse each key a few times from registers and cache.
const ITEM_QUERIES: usize = 24;

/// The rows of a step, checked against a cache.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(super) geometry: Geometry,
    pub(super) positions: &'a [u32],
    /// For each row, where its key and value go: block and slot.
    pub(super) slots: Vec<(usize, usize)>,
    pub(super) sequences: Vec<Sequence<'a>>,
    pub(super) items: Vec<Item>,
    /// Of each row and key and value head whose context is split: into how many shares.
    pub(super) split: Vec<usize>,
    /// `[rows, head_dim / 2]`
    pub(super) cos: Vec<f32>,
    /// `[rows, head_dim / 2]`
    pub(super) sin: Vec<f32>,
}

/// One sequence's rows and blocks.
#[derive(Clone, Debug)]
pub(crate) struct Sequence<'a> {
    /// Its rows, in the order of their positions.
    pub(crate) rows: Range<usize>,
    /// Its block table.
    pub(crate) blocks: &'a [u32],
}

/// Rows of one sequence under one key and value head.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    pub(super) rows: Range<usize>,
    /// The part of the context that it looks at, where that is not all.
    pub(super) part: Option<Part>,
}

/// One share of a context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Index in [`Plan::split`].
    pub(super) of: usize,
    pub(super) share: usize,
}

/// What can be wrong with a step's rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// The sequences' rows are not all rows, one sequence after another.
    #[error("sequence {sequence} has the rows {rows:?}, expected them to begin at {expected}")]
    Rows {
        /// Index of the sequence.
        sequence: usize,
        /// Its rows.
        rows: Range<usize>,
        /// Where they must begin.
        expected: usize,
    },
    /// Positions of a sequence do not follow one another.
    #[error("row {row} has position {position}, which does not follow the row before")]
    Order {
        /// Index of the row.
        row: usize,
        /// Its position.
        position: u32,
    },
    /// A block table does not reach far enough, or names a block that is not there.
    #[error("position {position} of sequence {sequence} has no block in the cache")]
    NoBlock {
        /// Index of the sequence.
        sequence: usize,
        /// The position.
        position: usize,
    },
    /// Two rows would write the same slot.
    #[error("two rows write block {block}, slot {slot}")]
    Clash {
        /// The block.
        block: usize,
        /// The slot.
        slot: usize,
    },
}

impl<'a> Plan<'a> {
    /// Checks the rows and shares out the work. `cos` and `sin` are the rotations, `[rows, head_dim / 2]`.
    ///
    /// # Errors
    /// See [`PlanError`].
    ///
    /// # Panics
    /// If `cos` or `sin` has another length.
    pub(crate) fn new(
        geometry: Geometry,
        positions: &'a [u32],
        sequences: Vec<Sequence<'a>>,
        (cos, sin): (Vec<f32>, Vec<f32>),
    ) -> Result<Self, PlanError> {
        let rotations = positions.len() * geometry.head_dim / 2;
        assert!(
            cos.len() == rotations && sin.len() == rotations,
            "a rotation for each row and pair of dimensions"
        );
        let (slots, items, split) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = Self { geometry, positions, slots, sequences, items, split, cos, sin };
        let mut next = 0;
        for index in 0..plan.sequences.len() {
            let rows = plan.sequences[index].rows.clone();
            if rows.start != next || rows.end < rows.start || rows.end > positions.len() {
                return Err(PlanError::Rows { sequence: index, rows, expected: next });
            }
            next = rows.end;
            plan.place(index)?;
            plan.share_out(index);
        }
        if next != positions.len() {
            return Err(PlanError::Rows {
                sequence: plan.sequences.len(),
                rows: next..next,
                expected: positions.len(),
            });
        }
        plan.check_clashes()?;
        Ok(plan)
    }

    /// Values of one row of attention's output.
    pub(crate) fn output_width(&self) -> usize {
        self.geometry.heads * self.geometry.head_dim
    }

    /// Finds the slot of each row, and checks every block that the rows will read.
    fn place(&mut self, index: usize) -> Result<(), PlanError> {
        let Sequence { rows, blocks } = &self.sequences[index];
        let size = self.geometry.block_size;
        for row in rows.clone() {
            let position = self.positions[row];
            if row > rows.start && position != self.positions[row - 1].wrapping_add(1) {
                return Err(PlanError::Order { row, position });
            }
            let position = position as usize;
            let block = blocks.get(position / size).map(|block| *block as usize);
            let block = block.filter(|block| *block < self.geometry.blocks);
            let block = block.ok_or(PlanError::NoBlock { sequence: index, position })?;
            self.slots.push((block, position % size));
        }
        let Some(first) = rows.clone().next() else { return Ok(()) };
        let cached = (self.positions[first] as usize).div_ceil(size);
        match blocks[..cached].iter().position(|block| *block as usize >= self.geometry.blocks) {
            Some(block) => Err(PlanError::NoBlock { sequence: index, position: block * size }),
            None => Ok(()),
        }
    }

    fn share_out(&mut self, index: usize) {
        let rows = self.sequences[index].rows.clone();
        let height = (ITEM_QUERIES / self.geometry.group()).max(1);
        for from in rows.clone().step_by(height) {
            let tile = from..rows.end.min(from + height);
            for kv_head in 0..self.geometry.kv_heads {
                self.share_tile(index, kv_head, tile.clone());
            }
        }
    }

    /// A single row looks at its context in shares: there may be few rows, and then more threads than heads.
    fn share_tile(&mut self, sequence: usize, kv_head: usize, rows: Range<usize>) {
        let size = self.geometry.block_size;
        let blocks = self.positions[rows.start] as usize / size + 1;
        let shares = if rows.len() == 1 { blocks.div_ceil(share_blocks(size)) } else { 1 };
        if shares == 1 {
            self.items.push(Item { sequence, kv_head, rows, part: None });
            return;
        }
        let of = self.split.len();
        self.split.push(shares);
        self.items.extend((0..shares).map(|share| Item {
            sequence,
            kv_head,
            rows: rows.clone(),
            part: Some(Part { of, share }),
        }));
    }

    /// Threads write the slots at the same time, so each must be one row's own.
    fn check_clashes(&self) -> Result<(), PlanError> {
        let mut slots = self.slots.clone();
        slots.sort_unstable();
        match slots.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(PlanError::Clash { block: pair[0].0, slot: pair[0].1 }),
            None => Ok(()),
        }
    }
}
