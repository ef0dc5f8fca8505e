//! A long context in shares of fixed length: each is softened by itself, then they are united (Flash-Decoding, Dao et
//! al. 2023), so that more threads than there are key and value heads can work on one row.
//!
//! Shares are counted from position 0 and united in their order, whether one thread has gone through all of them or each
//! had its own: a row's result depends on its position, never on who worked on it.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use crate::kernels::lanes::{Lanes, exp};

/// Positions whose scores are softened at once: sums are rescaled that seldom. Whole blocks.
const SPAN: usize = 128;
/// Spans of a share: 256 positions are some microseconds of work.
const SPANS: usize = 2;

/// Blocks of a span, where a block has so many positions.
pub(super) fn span_blocks(block_size: usize) -> usize {
    (SPAN / block_size).max(1)
}

/// Blocks of a share.
pub(super) fn share_blocks(block_size: usize) -> usize {
    SPANS * span_blocks(block_size)
}

/// What sums relative to `before` become relative to `largest`: the factor.
///
/// # Safety
/// The instructions of `L` are present.
#[inline(always)]
pub(super) unsafe fn shrink<L: Lanes>(before: f32, largest: f32) -> f32 {
    // SAFETY: passed on to the caller.
    unsafe { exp(L::splat(before - largest)).first(1, 0.0).sum() }
}

/// What softmax came to over some positions, for each query of an item.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// `[queries, value_width]`: values weighted by exponentials.
    pub(super) values: Vec<f32>,
    /// Sum of exponentials; 0 where the query sees none of the positions.
    pub(super) totals: Vec<f32>,
    /// Largest score, to which the exponentials are relative.
    pub(super) largest: Vec<f32>,
}

impl Sums {
    /// Of no positions yet.
    pub(super) fn new(queries: usize, width: usize) -> Self {
        Self {
            values: vec![0.0; queries * width],
            totals: vec![0.0; queries],
            largest: vec![f32::NEG_INFINITY; queries],
        }
    }

    /// Adds those of later positions.
    ///
    /// # Safety
    /// The instructions of `L` are present.
    #[inline(always)]
    pub(super) unsafe fn add<L: Lanes>(&mut self, later: &Self) {
        let width = self.values.len() / self.totals.len();
        let rows = self.values.chunks_exact_mut(width).zip(later.values.chunks_exact(width));
        for (query, (values, more)) in rows.enumerate() {
            // It sees nothing of them.
            if later.totals[query] == 0.0 {
                continue;
            }
            let largest = self.largest[query].max(later.largest[query]);
            // SAFETY: passed on to the caller.
            let (kept, added) = unsafe {
                (shrink::<L>(self.largest[query], largest), shrink::<L>(later.largest[query], largest))
            };
            self.totals[query] = self.totals[query] * kept + later.totals[query] * added;
            self.largest[query] = largest;
            values.iter_mut().zip(more).for_each(|(value, more)| *value = *value * kept + more * added);
        }
    }
}

/// The shares of one item's context, each in the work.
#[derive(Debug)]
pub(super) struct Shares {
    sums: Vec<OnceLock<Sums>>,
    missing: AtomicUsize,
}

impl Shares {
    /// So many.
    pub(super) fn new(count: usize) -> Self {
        Self { sums: vec![OnceLock::new(); count], missing: AtomicUsize::new(count) }
    }

    /// Brings what one share came to. Whoever brings the last is given all of them, united.
    ///
    /// # Safety
    /// The instructions of `L` are present.
    #[inline(always)]
    pub(super) unsafe fn bring<L: Lanes>(&self, share: usize, sums: Sums) -> Option<Sums> {
        // Each is brought once.
        let _ = self.sums[share].set(sums);
        if self.missing.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        let mut shares = self.sums.iter().filter_map(OnceLock::get);
        let mut all = shares.next()?.clone();
        for later in shares {
            // SAFETY: passed on to the caller.
            unsafe { all.add::<L>(later) }
        }
        Some(all)
    }
}
