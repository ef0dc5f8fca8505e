//! The queries of some rows look at all positions up to their own.

use super::{Plan, plan::Item};
use crate::kernels::{
    cache::{Element, Pages},
    isa::Kernel,
    lanes::{Lanes, WIDTH, exp},
    shared::SharedMut,
};

/// One item: rows of one sequence under one key and value head. Its queries are the rows' heads of that group, row by row.
pub(super) struct Attend<'a, T> {
    pub(super) item: &'a Item,
    /// `[rows, queries + keys + values]`, entered.
    pub(super) qkv: &'a [f32],
    pub(super) pages: &'a Pages<T>,
    pub(super) plan: &'a Plan<'a>,
    /// `[rows, heads * head_dim]`
    pub(super) output: SharedMut<f32>,
}

/// The softmax so far, of each query.
struct Progress {
    /// `[queries, slots]`: scores of the block at hand, then their exponentials.
    scores: Vec<f32>,
    /// `[queries, value_width]`: values weighted by exponentials.
    sums: Vec<f32>,
    /// Sum of exponentials.
    totals: Vec<f32>,
    /// Largest score.
    largest: Vec<f32>,
    /// What the sums so far shrink by because a larger score appeared.
    shrink: Vec<f32>,
}

/// A block that the item looks at.
#[derive(Clone, Copy)]
struct Block {
    index: usize,
    /// Position of its first slot.
    start: usize,
    /// Slots that at least one query may see.
    visible: usize,
    /// The first query that may see any of it.
    first_query: usize,
}

impl<T: Element> Kernel for Attend<'_, T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let mut progress = self.begin();
        let last = self.position(self.item.rows.end - 1) / self.plan.geometry.block_size;
        for number in 0..=last {
            let block = self.block(number);
            // SAFETY: the instructions are present, by the caller's promise; the plan has checked the block.
            unsafe {
                self.score_all::<L>(block, &mut progress);
                self.soften_all::<L>(block, &mut progress);
                self.gather_all::<L>(block, &mut progress);
            }
        }
        self.finish(&progress);
    }
}

/// Calls `$self.$tile::<L, N>` with `N` = `$count`, among the counts that the lanes have registers for.
macro_rules! by_count {
    ($self:ident.$tile:ident, $count:expr, $arguments:tt; $($number:literal)*) => {
        match $count {
            $($number if $number <= L::TILE_QUERIES => $self.$tile::<L, $number> $arguments,)*
            _ => unreachable!("a tile has at most TILE_QUERIES queries"),
        }
    };
}

impl<T: Element> Attend<'_, T> {
    fn begin(&self) -> Progress {
        let (queries, geometry) = (self.queries(), &self.plan.geometry);
        Progress {
            scores: vec![0.0; queries * geometry.slots()],
            sums: vec![0.0; queries * geometry.value_width()],
            totals: vec![0.0; queries],
            largest: vec![f32::NEG_INFINITY; queries],
            shrink: vec![0.0; queries],
        }
    }

    fn queries(&self) -> usize {
        self.item.rows.len() * self.plan.geometry.group()
    }

    fn position(&self, row: usize) -> usize {
        self.plan.positions[row] as usize
    }

    /// Block `number` of the sequence.
    fn block(&self, number: usize) -> Block {
        let geometry = &self.plan.geometry;
        let rows = self.item.rows.clone();
        let start = number * geometry.block_size;
        // Rows stand in the order of their positions: those before the block see nothing of it.
        let before = start.saturating_sub(self.position(rows.start)).min(rows.len());
        Block {
            index: self.plan.sequences[self.item.sequence].blocks[number] as usize,
            start,
            visible: geometry.block_size.min(self.position(rows.end - 1) + 1 - start),
            first_query: before * geometry.group(),
        }
    }

    /// Index in `qkv` of a query of this item.
    #[inline(always)]
    fn query_at(&self, query: usize) -> usize {
        let geometry = &self.plan.geometry;
        let (row, member) = (query / geometry.group(), query % geometry.group());
        let head = self.item.kv_head * geometry.group() + member;
        (self.item.rows.start + row) * geometry.row_width() + head * geometry.head_dim
    }

    #[inline(always)]
    unsafe fn score_all<L: Lanes>(&self, block: Block, progress: &mut Progress) {
        for query in (block.first_query..self.queries()).step_by(L::TILE_QUERIES) {
            let count = L::TILE_QUERIES.min(self.queries() - query);
            // SAFETY: passed on to the caller.
            unsafe { by_count!(self.score, count, (block, query, progress); 1 2 3 4 5 6 7 8) }
        }
    }

    /// Scores of `N` queries at all slots of a block.
    #[inline(always)]
    unsafe fn score<L: Lanes, const N: usize>(&self, block: Block, query: usize, progress: &mut Progress) {
        let mut slot = 0;
        // SAFETY: passed on to the caller; slots are whole lanes.
        unsafe {
            while 2 * N <= L::TILE_QUERIES && slot + WIDTH < block.visible {
                self.score_at::<L, N, 2>(block, query, slot, progress);
                slot += 2 * WIDTH;
            }
            while slot < block.visible {
                self.score_at::<L, N, 1>(block, query, slot, progress);
                slot += WIDTH;
            }
        }
    }

    /// [`Self::score`] for `C` times sixteen slots from `slot` on.
    #[inline(always)]
    unsafe fn score_at<L: Lanes, const N: usize, const C: usize>(
        &self,
        block: Block,
        query: usize,
        slot: usize,
        progress: &mut Progress,
    ) {
        let geometry = &self.plan.geometry;
        let slots = geometry.slots();
        // SAFETY: queries, keys of the block and scores are within their buffers; the head's width is even.
        unsafe {
            let queries: [*const f32; N] =
                std::array::from_fn(|n| self.qkv.as_ptr().add(self.query_at(query + n)));
            let keys = self.pages.keys.as_ptr().add(geometry.keys_at(block.index, self.item.kv_head));
            // Two sums for each query and lane: half as long a chain of dependent additions.
            let mut sums = [[[L::splat(0.0); 2]; C]; N];
            for pair in 0..geometry.head_dim / 2 {
                let tiles: [[L; 2]; C] = std::array::from_fn(|c| {
                    T::load_tile(keys.add(geometry.key_tile(pair, slot + c * WIDTH)))
                });
                for (query, sums) in queries.iter().zip(&mut sums) {
                    let (even, odd) = (L::splat(*query.add(2 * pair)), L::splat(*query.add(2 * pair + 1)));
                    for (tile, sums) in tiles.iter().zip(sums) {
                        sums[0] = even.mul_add(tile[0], sums[0]);
                        sums[1] = odd.mul_add(tile[1], sums[1]);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                for (c, sums) in sums.iter().enumerate() {
                    let at = (query + n) * slots + slot + c * WIDTH;
                    sums[0].add(sums[1]).store(progress.scores.as_mut_ptr().add(at));
                }
            }
        }
    }

    /// Turns scores into exponentials relative to the largest score so far.
    #[inline(always)]
    unsafe fn soften_all<L: Lanes>(&self, block: Block, progress: &mut Progress) {
        let slots = self.plan.geometry.slots();
        for query in block.first_query..self.queries() {
            let position = self.position(self.item.rows.start + query / self.plan.geometry.group());
            let seen = (position + 1 - block.start).min(block.visible);
            let scores = &mut progress.scores[query * slots..][..slots];
            let before = progress.largest[query];
            // SAFETY: passed on to the caller.
            unsafe {
                let largest = largest::<L>(&scores[..seen.next_multiple_of(WIDTH)], seen).max(before);
                let total =
                    exponentials::<L>(&mut scores[..block.visible.next_multiple_of(WIDTH)], seen, largest);
                let shrink = exp(L::splat(before - largest)).first(1, 0.0).sum();
                progress.totals[query] = progress.totals[query] * shrink + total;
                progress.shrink[query] = shrink;
                progress.largest[query] = largest;
            }
        }
    }

    #[inline(always)]
    unsafe fn gather_all<L: Lanes>(&self, block: Block, progress: &mut Progress) {
        for query in (block.first_query..self.queries()).step_by(L::TILE_QUERIES) {
            let count = L::TILE_QUERIES.min(self.queries() - query);
            // SAFETY: passed on to the caller.
            unsafe { by_count!(self.gather, count, (block, query, progress); 1 2 3 4 5 6 7 8) }
        }
    }

    /// Adds a block's values, weighted by exponentials, to the sums of `N` queries.
    #[inline(always)]
    unsafe fn gather<L: Lanes, const N: usize>(&self, block: Block, query: usize, progress: &mut Progress) {
        let width = self.plan.geometry.value_width();
        let mut dim = 0;
        // SAFETY: passed on to the caller; `width` is whole lanes.
        unsafe {
            while 2 * N <= L::TILE_QUERIES && dim + 4 * WIDTH <= width {
                self.gather_at::<L, N, 4>(block, query, dim, progress);
                dim += 4 * WIDTH;
            }
            while dim + 2 * WIDTH <= width {
                self.gather_at::<L, N, 2>(block, query, dim, progress);
                dim += 2 * WIDTH;
            }
            if dim < width {
                self.gather_at::<L, N, 1>(block, query, dim, progress);
            }
        }
    }

    /// [`Self::gather`] for `V` times sixteen dimensions from `dim` on.
    #[inline(always)]
    unsafe fn gather_at<L: Lanes, const N: usize, const V: usize>(
        &self,
        block: Block,
        query: usize,
        dim: usize,
        progress: &mut Progress,
    ) {
        let geometry = &self.plan.geometry;
        let (width, slots) = (geometry.value_width(), geometry.slots());
        // SAFETY: values of the block, scores and sums are within their buffers.
        unsafe {
            let values = self.pages.values.as_ptr().add(geometry.values_at(block.index, self.item.kv_head));
            let scores = progress.scores.as_ptr().add(query * slots);
            let target = progress.sums.as_mut_ptr().add(query * width + dim);
            let mut sums = [[L::splat(0.0); V]; N];
            for (n, sums) in sums.iter_mut().enumerate() {
                let shrink = L::splat(progress.shrink[query + n]);
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(target.add(n * width + v * WIDTH)).mul(shrink);
                }
            }
            for pair in 0..block.visible.div_ceil(2) {
                let tiles: [[L; 2]; V] = std::array::from_fn(|v| {
                    T::load_tile(values.add(geometry.value_tile(pair, dim + v * WIDTH)))
                });
                // The second slot of the last pair may hold anything: its weight of zero would not silence a NaN.
                let rows = if 2 * pair + 1 < block.visible { 2 } else { 1 };
                for row in 0..rows {
                    for (n, sums) in sums.iter_mut().enumerate() {
                        let weight = L::splat(*scores.add(n * slots + 2 * pair + row));
                        for (sum, tile) in sums.iter_mut().zip(&tiles) {
                            *sum = weight.mul_add(tile[row], *sum);
                        }
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    sum.store(target.add(n * width + v * WIDTH));
                }
            }
        }
    }

    fn finish(&self, progress: &Progress) {
        let geometry = &self.plan.geometry;
        let (dim, group) = (geometry.head_dim, geometry.group());
        for query in 0..self.queries() {
            let row = self.item.rows.start + query / group;
            let head = self.item.kv_head * group + query % group;
            // SAFETY: within the output, and this row's head belongs to this item only.
            let target = unsafe {
                std::slice::from_raw_parts_mut(self.output.at((row * geometry.heads + head) * dim), dim)
            };
            let sums = &progress.sums[query * geometry.value_width()..][..dim];
            let scale = 1.0 / progress.totals[query];
            target.iter_mut().zip(sums).for_each(|(target, sum)| *target = sum * scale);
        }
    }
}

/// The largest of the first `seen` scores.
#[inline(always)]
unsafe fn largest<L: Lanes>(scores: &[f32], seen: usize) -> f32 {
    // SAFETY: each chunk holds sixteen values; the instructions are present, by the caller's promise.
    unsafe {
        let mut largest = L::splat(f32::NEG_INFINITY);
        for (index, chunk) in scores.as_chunks::<WIDTH>().0.iter().enumerate() {
            let count = seen.saturating_sub(index * WIDTH);
            largest = largest.max(L::load(chunk.as_ptr()).first(count, f32::NEG_INFINITY));
        }
        largest.largest()
    }
}

/// Replaces the first `seen` scores by `e^(score - largest)` and the others by zero; returns their sum.
#[inline(always)]
unsafe fn exponentials<L: Lanes>(scores: &mut [f32], seen: usize, largest: f32) -> f32 {
    // SAFETY: each chunk holds sixteen values; the instructions are present, by the caller's promise.
    unsafe {
        let mut total = L::splat(0.0);
        for (index, chunk) in scores.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let count = seen.saturating_sub(index * WIDTH);
            // Slots beyond `seen` may hold anything, NaN too: they are cut off before and after.
            let score = L::load(chunk.as_ptr()).first(count, largest);
            let weight = exp(score.sub(L::splat(largest))).first(count, 0.0);
            weight.store(chunk.as_mut_ptr());
            total = total.add(weight);
        }
        total.sum()
    }
}
