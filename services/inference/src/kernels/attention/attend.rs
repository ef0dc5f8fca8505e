//! The queries of some rows look at all positions up to their own.

use super::{
    Plan,
    plan::Item,
    shares::{Shares, Sums, share_blocks, shrink, span_blocks},
    soften::{exponentials, largest_of},
};
use crate::kernels::{
    cache::{Element, Pages},
    factor::{Factor, narrow},
    isa::Kernel,
    lanes::{Lanes, WIDTH, prefetch},
    shared::SharedMut,
};

/// One item: rows of one sequence under one key and value head. Its queries are the rows' heads of that group, row by row.
pub(super) struct Attend<'a, T> {
    pub(super) item: &'a Item,
    /// `[rows, queries + keys + values]`, entered.
    pub(super) qkv: &'a [f32],
    pub(super) pages: &'a Pages<T>,
    pub(super) plan: &'a Plan<'a>,
    /// Of each item whose context several threads share, what they have found.
    pub(super) split: &'a [Shares],
    /// `[rows, heads * head_dim]`
    pub(super) output: SharedMut<f32>,
}

/// The softmax so far, of each query. Blocks are taken by spans and shares that are counted from position 0, so that the
/// order of all sums depends on positions only.
struct Progress<F> {
    /// `[queries, head_dim]`
    queries: Vec<F>,
    /// `[queries, slots of a span]`: scores of the span at hand.
    scores: Vec<f32>,
    /// As `scores`: their exponentials, in units of the values where these have any.
    weights: Vec<F>,
    /// `[slots of a span]`: the units of the values at hand; empty where there are none.
    units: Vec<f32>,
    /// Over the share at hand.
    sums: Sums,
    /// What the sums so far shrink by because a larger score appeared.
    shrink: Vec<f32>,
}

/// A block that the item looks at.
#[derive(Clone, Copy)]
struct Block {
    index: usize,
    /// The one that is looked at next; itself where there is none.
    next: usize,
    /// Position of its first slot.
    start: usize,
    /// Slots that at least one query may see.
    visible: usize,
    /// The first query that may see any of it.
    first_query: usize,
    /// Where its first slot stands among the span's.
    place: usize,
}

impl<T: Element> Kernel for Attend<'_, T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let shares = match self.item.part {
            Some(part) => part.share..part.share + 1,
            None => 0..self.blocks().div_ceil(share_blocks(self.plan.geometry.block_size)),
        };
        // SAFETY: the instructions are present, by the caller's promise.
        unsafe {
            let mut progress = self.begin::<L>();
            let mut all: Option<Sums> = None;
            // `look` has all the code of the kernel within it, for each type and each set of instructions: it is called in
            // one place.
            for share in shares {
                let sums = self.look::<L>(share, &mut progress);
                match &mut all {
                    Some(all) => all.add::<L>(&sums),
                    None => all = Some(sums),
                }
            }
            if let Some(part) = self.item.part {
                all = all.and_then(|sums| self.split[part.of].bring::<L>(part.share, sums));
            }
            all.iter().for_each(|all| self.finish(all));
        }
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
    #[inline(always)]
    unsafe fn begin<L: Lanes>(&self) -> Progress<T::Factor<L>> {
        let (queries, geometry) = (self.queries(), &self.plan.geometry);
        let dim = geometry.head_dim;
        let mut narrowed = vec![T::Factor::<L>::default(); queries * dim];
        for (query, to) in narrowed.chunks_exact_mut(dim).enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { narrow::<L, _>(&self.qkv[self.query_at(query)..][..dim], to) }
        }
        Progress {
            queries: narrowed,
            scores: vec![0.0; queries * self.span_slots()],
            weights: vec![T::Factor::<L>::default(); queries * self.span_slots()],
            units: vec![0.0; if T::HAS_UNITS { self.span_slots() } else { 0 }],
            sums: Sums::default(),
            shrink: vec![0.0; queries],
        }
    }

    /// Goes through one share of the context.
    #[inline(always)]
    unsafe fn look<L: Lanes>(&self, share: usize, progress: &mut Progress<T::Factor<L>>) -> Sums {
        let blocks = share_blocks(self.plan.geometry.block_size);
        let end = self.blocks().min((share + 1) * blocks);
        progress.sums = Sums::new(self.queries(), self.plan.geometry.value_width());
        let mut span = Vec::with_capacity(self.span_blocks());
        for first in (share * blocks..end).step_by(self.span_blocks()) {
            span.clear();
            span.extend((first..end.min(first + self.span_blocks())).map(|number| self.block(number)));
            // SAFETY: passed on to the caller; the plan has checked the blocks.
            unsafe {
                self.fetch_units(&span, &mut progress.units);
                self.score_all::<L>(&span, progress);
                let joined = self.joined(&span);
                self.soften_all::<L>(joined.as_ref().map_or(&span, std::slice::from_ref), progress);
                self.gather_all::<L>(&span, progress);
            }
        }
        std::mem::take(&mut progress.sums)
    }

    /// Brings the units of a span's values together.
    fn fetch_units(&self, span: &[Block], units: &mut [f32]) {
        let (geometry, head) = (&self.plan.geometry, self.item.kv_head);
        if !T::HAS_UNITS {
            return;
        }
        for block in span {
            let from = &self.pages.value_units[geometry.units_at(block.index, head)..][..geometry.slots()];
            units[block.place..][..geometry.slots()].copy_from_slice(from);
        }
    }

    /// Blocks that at least one query may see.
    fn blocks(&self) -> usize {
        self.position(self.item.rows.end - 1) / self.plan.geometry.block_size + 1
    }

    fn span_blocks(&self) -> usize {
        span_blocks(self.plan.geometry.block_size)
    }

    fn span_slots(&self) -> usize {
        self.span_blocks() * self.plan.geometry.slots()
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
        let blocks = self.plan.sequences[self.item.sequence].blocks;
        Block {
            index: blocks[number] as usize,
            next: *blocks.get(number + 1).unwrap_or(&blocks[number]) as usize,
            start,
            visible: geometry.block_size.min(self.position(rows.end - 1) + 1 - start),
            first_query: before * geometry.group(),
            place: number % self.span_blocks() * geometry.slots(),
        }
    }

    /// The blocks of a span as one, where their slots follow one another without gaps.
    fn joined(&self, span: &[Block]) -> Option<Block> {
        let geometry = &self.plan.geometry;
        let visible = span.iter().map(|block| block.visible).sum();
        (geometry.slots() == geometry.block_size).then_some(Block { visible, ..span[0] })
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
    unsafe fn score_all<L: Lanes>(&self, span: &[Block], progress: &mut Progress<T::Factor<L>>) {
        for block in span {
            for query in (block.first_query..self.queries()).step_by(L::TILE_QUERIES) {
                let count = L::TILE_QUERIES.min(self.queries() - query);
                // SAFETY: passed on to the caller.
                unsafe { by_count!(self.score, count, (*block, query, progress); 1 2 3 4 5 6 7 8) }
            }
        }
    }

    /// Scores of `N` queries at all slots of a block.
    #[inline(always)]
    unsafe fn score<L: Lanes, const N: usize>(
        &self,
        block: Block,
        query: usize,
        progress: &mut Progress<T::Factor<L>>,
    ) {
        let mut slot = 0;
        // SAFETY: passed on to the caller; slots are whole lanes.
        unsafe {
            while 2 * N <= L::TILE_SUMS && slot + WIDTH < block.visible {
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
        progress: &mut Progress<T::Factor<L>>,
    ) {
        let geometry = &self.plan.geometry;
        // SAFETY: queries, keys of the block and scores are within their buffers; the head's width is even.
        unsafe {
            let queries = progress.queries.as_ptr().add(query * geometry.head_dim);
            let keys = self.pages.keys.as_ptr().add(geometry.keys_at(block.index, self.item.kv_head));
            let (next_keys, own_values) = self.asked_with(&block);
            let mut sums = [[L::splat(0.0); C]; N];
            for pair in 0..geometry.head_dim / 2 {
                for c in 0..C {
                    let at = geometry.key_tile(pair, slot + c * WIDTH);
                    prefetch(next_keys.wrapping_add(at));
                    prefetch(own_values.wrapping_add(at));
                    for step in 0..T::Factor::<L>::STEPS {
                        let tile = T::load_tile::<L>(keys.add(at), step, false);
                        let queries = queries.add(2 * pair);
                        add_step(&mut sums, c, tile, (queries, geometry.head_dim, step));
                    }
                }
            }
            let units = self.pages.key_units.as_ptr();
            let units = units.wrapping_add(geometry.units_at(block.index, self.item.kv_head) + slot);
            for (n, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    let at = (query + n) * self.span_slots() + block.place + slot + c * WIDTH;
                    let sum = if T::HAS_UNITS { sum.mul(L::load(units.add(c * WIDTH))) } else { *sum };
                    sum.store(progress.scores.as_mut_ptr().add(at));
                }
            }
        }
    }

    /// What memory is asked for while a block is scored, a line with each tile: the keys of the next block and the block's
    /// own values, which take about as many lines. Blocks lie anywhere, and the machine's own prefetching ends with each.
    fn asked_with(&self, block: &Block) -> (*const T, *const T) {
        let (geometry, head) = (&self.plan.geometry, self.item.kv_head);
        let keys = self.pages.keys.as_ptr().wrapping_add(geometry.keys_at(block.next, head));
        (keys, self.pages.values.as_ptr().wrapping_add(geometry.values_at(block.index, head)))
    }

    /// Turns scores into exponentials relative to the largest score so far.
    #[inline(always)]
    unsafe fn soften_all<L: Lanes>(&self, span: &[Block], progress: &mut Progress<T::Factor<L>>) {
        let slots = self.span_slots();
        for query in span[0].first_query..self.queries() {
            let position = self.position(self.item.rows.start + query / self.plan.geometry.group());
            let seen = |block: &Block| (position + 1).saturating_sub(block.start).min(block.visible);
            let scores = &progress.scores[query * slots..][..slots];
            let weights = &mut progress.weights[query * slots..][..slots];
            let before = progress.sums.largest[query];
            // SAFETY: passed on to the caller.
            unsafe {
                let mut largest = before;
                for block in span {
                    let (scores, seen) = (&scores[block.place..], seen(block));
                    largest = largest.max(largest_of::<L>(&scores[..seen.next_multiple_of(WIDTH)], seen));
                }
                let mut total = L::splat(0.0);
                for block in span {
                    let slots = block.place..block.place + block.visible.next_multiple_of(WIDTH);
                    let units = T::HAS_UNITS.then(|| &progress.units[slots.clone()]);
                    let (scores, weights) = ((&scores[slots.clone()], units), &mut weights[slots]);
                    total = total.add(exponentials::<L, _>(scores, weights, seen(block), largest));
                }
                let shrink = shrink::<L>(before, largest);
                let sums = &mut progress.sums;
                sums.totals[query] = sums.totals[query] * shrink + total.sum();
                sums.largest[query] = largest;
                progress.shrink[query] = shrink;
            }
        }
    }

    #[inline(always)]
    unsafe fn gather_all<L: Lanes>(&self, span: &[Block], progress: &mut Progress<T::Factor<L>>) {
        for query in (span[0].first_query..self.queries()).step_by(L::TILE_QUERIES) {
            let count = L::TILE_QUERIES.min(self.queries() - query);
            // Blocks that only later queries may see have no weights of these.
            let seen = span.iter().take_while(|block| block.first_query < query + count).count();
            // SAFETY: passed on to the caller.
            unsafe { by_count!(self.gather, count, (&span[..seen], query, progress); 1 2 3 4 5 6 7 8) }
        }
    }

    /// Adds the values of some blocks, weighted by exponentials, to the sums of `N` queries.
    #[inline(always)]
    unsafe fn gather<L: Lanes, const N: usize>(
        &self,
        blocks: &[Block],
        query: usize,
        progress: &mut Progress<T::Factor<L>>,
    ) {
        let width = self.plan.geometry.value_width();
        let mut dim = 0;
        // SAFETY: passed on to the caller; `width` is whole lanes.
        unsafe {
            while 4 * N <= L::TILE_SUMS && dim + 4 * WIDTH <= width {
                self.gather_at::<L, N, 4>(blocks, query, dim, progress);
                dim += 4 * WIDTH;
            }
            while 2 * N <= L::TILE_SUMS && dim + 2 * WIDTH <= width {
                self.gather_at::<L, N, 2>(blocks, query, dim, progress);
                dim += 2 * WIDTH;
            }
            while dim < width {
                self.gather_at::<L, N, 1>(blocks, query, dim, progress);
                dim += WIDTH;
            }
        }
    }

    /// [`Self::gather`] for `V` times sixteen dimensions from `dim` on.
    #[inline(always)]
    unsafe fn gather_at<L: Lanes, const N: usize, const V: usize>(
        &self,
        blocks: &[Block],
        query: usize,
        dim: usize,
        progress: &mut Progress<T::Factor<L>>,
    ) {
        let width = self.plan.geometry.value_width();
        // SAFETY: sums are within their buffer.
        unsafe {
            let target = progress.sums.values.as_mut_ptr().add(query * width + dim);
            let mut sums = [[L::splat(0.0); V]; N];
            for (n, sums) in sums.iter_mut().enumerate() {
                let shrink = L::splat(progress.shrink[query + n]);
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(target.add(n * width + v * WIDTH)).mul(shrink);
                }
            }
            for block in blocks {
                self.gather_block::<L, N, V>(*block, (query, dim), progress, &mut sums);
            }
            for (n, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    sum.store(target.add(n * width + v * WIDTH));
                }
            }
        }
    }

    /// One block's part of [`Self::gather_at`].
    #[inline(always)]
    unsafe fn gather_block<L: Lanes, const N: usize, const V: usize>(
        &self,
        block: Block,
        (query, dim): (usize, usize),
        progress: &Progress<T::Factor<L>>,
        sums: &mut [[L; V]; N],
    ) {
        let (geometry, slots) = (&self.plan.geometry, self.span_slots());
        // SAFETY: values of the block and weights are within their buffers.
        unsafe {
            let values = self.pages.values.as_ptr().add(geometry.values_at(block.index, self.item.kv_head));
            let weights = progress.weights.as_ptr().add(query * slots + block.place);
            for pair in 0..block.visible / 2 {
                for v in 0..V {
                    for step in 0..T::Factor::<L>::STEPS {
                        let tile = values.add(geometry.value_tile(pair, dim + v * WIDTH));
                        let tile = T::load_tile::<L>(tile, step, false);
                        add_step(sums, v, tile, (weights.add(2 * pair), slots, step));
                    }
                }
            }
            // The second slot of the last pair may hold anything: its weight of zero would not silence a NaN.
            if !block.visible.is_multiple_of(2) {
                let last = block.visible - 1;
                for v in 0..V {
                    let tile = values.add(geometry.value_tile(last / 2, dim + v * WIDTH));
                    let tile = T::load_tile::<L>(tile, 0, true);
                    add_step(sums, v, tile, (weights.add(last), slots, 0));
                }
            }
        }
    }

    fn finish(&self, all: &Sums) {
        let geometry = &self.plan.geometry;
        let (dim, group) = (geometry.head_dim, geometry.group());
        for query in 0..self.queries() {
            let row = self.item.rows.start + query / group;
            let head = self.item.kv_head * group + query % group;
            // SAFETY: within the output, and this row's head belongs to this item only, or to those that share its
            // context, of which one finishes.
            let target = unsafe {
                std::slice::from_raw_parts_mut(self.output.at((row * geometry.heads + head) * dim), dim)
            };
            let sums = &all.values[query * geometry.value_width()..][..dim];
            let scale = 1.0 / all.totals[query];
            target.iter_mut().zip(sums).for_each(|(target, sum)| *target = sum * scale);
        }
    }
}

/// Adds the products of one step of a tile and the factors of `N` queries, `stride` apart, to sums number `column`.
#[inline(always)]
unsafe fn add_step<L: Lanes, F: Factor<L>, const N: usize, const C: usize>(
    sums: &mut [[L; C]; N],
    column: usize,
    tile: F::Tile,
    (factors, stride, step): (*const F, usize, usize),
) {
    for (n, sums) in sums.iter_mut().enumerate() {
        // SAFETY: passed on to the caller.
        unsafe {
            let factors = F::splat(factors.add(n * stride), step);
            sums[column] = F::add_dot(sums[column], factors, tile);
        }
    }
}
