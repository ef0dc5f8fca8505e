//! How unpacked products are shared out: panels among threads, the rows of each in tiles.

use std::ops::Range;

use super::{AHEAD, target::Target};
use crate::kernels::{
    Cpu,
    isa::{Unpacked, UnpackedKernel},
    lanes::{Unpacking, prefetch},
};

/// Weight bytes of one item of work, where there are enough: from item to item a thread's reading starts anew.
const ITEM_BYTES: usize = 128 << 10;

/// Items that each thread finds at least, where there are enough panels: who is slower does fewer.
const ITEMS_PER_THREAD: usize = 3;

/// Panels that one row meets at once, where there are enough. A thread that reads at several places at a time is given more by
/// memory. As measured, two give less than three; four, whose sums alone would take all registers, were not tried.
const ABREAST: usize = 3;

/// Bytes that memory gives at once.
const LINE: usize = 64;

/// Products of rows by panels.
pub(super) trait Products: Copy + Sync {
    /// Weight bytes, all panels.
    fn weights(&self) -> &[u8];

    /// Steps of one panel: how often [`Self::sums`] asks ahead.
    fn steps(&self) -> usize;

    /// Sums of `N` rows for `H` times sixteen outputs: half a panel's, a panel's, or those of panels side by side.
    ///
    /// # Safety
    /// As for [`Unpacking`]; panels and rows are those of the operands.
    unsafe fn sums<L: Unpacking, const N: usize, const H: usize>(
        &self,
        tile: Tile,
        ahead: Ahead,
    ) -> [[L; H]; N];

    /// What the sums of one row stand for.
    ///
    /// # Safety
    /// As for [`Self::sums`].
    unsafe fn finish<L: Unpacking>(&self, panel: usize, sums: [L; 2]) -> [L; 2];
}

/// Where rows meet outputs.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The first panel.
    pub(super) panel: usize,
    /// The first row.
    pub(super) row: usize,
    /// The first sixteen outputs of the panel, or the second.
    pub(super) half: usize,
}

/// What memory is asked for while weights that are there already are multiplied. Memory would have nothing to do while a
/// panel meets all rows but the first few: so each pass over a panel asks for its part of the next panel. Where there is
/// only one pass, it reads as fast as memory gives, and asks for its own panels' bytes a little ahead.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    /// Bytes of a panel.
    panel: usize,
    /// Bytes from step to step.
    stride: usize,
    /// Bytes from pass to pass.
    part: usize,
}

impl Ahead {
    /// Asks for what is `H` times sixteen outputs' weights of a step.
    #[inline(always)]
    pub(super) fn ask<const H: usize>(&mut self) {
        for index in 0..H {
            prefetch(self.at.wrapping_add(index / 2 * self.panel + index % 2 * LINE));
        }
        self.at = self.at.wrapping_add(self.stride);
    }

    /// For one pass; `self` is for the pass after it.
    #[inline(always)]
    fn pass(&mut self) -> Self {
        let this = *self;
        self.at = self.at.wrapping_add(self.part);
        this
    }
}

impl Cpu {
    /// Makes products of all rows by all panels.
    ///
    /// # Safety
    /// The operands have the target's rows and panels.
    pub(super) unsafe fn each_panel(&mut self, isa: Unpacked, products: impl Products, target: Target<'_>) {
        let (panels, threads) = (target.panels(), self.pool.threads());
        let panel_bytes = products.weights().len() / panels.max(1);
        let abreast = if target.rows() == 1 { ABREAST } else { 1 };
        let most = (ITEM_BYTES / panel_bytes.max(1)).max(abreast).min(panels / (ITEMS_PER_THREAD * threads));
        // As many items for each thread, so that equally fast ones are done at the same time.
        let even = |many: &usize| panels.div_ceil(*many).is_multiple_of(threads);
        let whole = (1..=most / abreast).rev().map(|many| many * abreast);
        let per_item = whole.chain((1..=most).rev()).find(even).unwrap_or(1);
        self.pool.run(panels.div_ceil(per_item), &|item| {
            let panels = item * per_item..panels.min((item + 1) * per_item);
            // Items are taken from the last to the first, in turns as long as all threads are equally fast.
            let next = item.saturating_sub(threads) * per_item;
            isa.run(Panelwise { products, target, panels, panel_bytes, next });
        });
    }
}

/// The products of all rows by some panels.
struct Panelwise<'a, P> {
    products: P,
    target: Target<'a>,
    panels: Range<usize>,
    panel_bytes: usize,
    /// What this thread will probably see after them.
    next: usize,
}

impl<P: Products> UnpackedKernel for Panelwise<'_, P> {
    #[inline(always)]
    unsafe fn run<L: Unpacking>(self) {
        let mut panel = self.panels.start;
        if self.target.rows() == 1 {
            while panel + ABREAST <= self.panels.end {
                // SAFETY: the instructions are present, by the caller's promise; so are the panels.
                unsafe { self.abreast::<L>(panel) }
                panel += ABREAST;
            }
        }
        let passes = tiles(self.target.rows(), L::ROWS).map(|rows| passes::<L>(rows.len())).sum();
        for panel in panel..self.panels.end {
            let mut ahead = self.ahead(panel, passes);
            for rows in tiles(self.target.rows(), L::ROWS) {
                // SAFETY: as above; so are the rows.
                unsafe { self.tile_of::<L>(panel, rows, &mut ahead) }
            }
        }
    }
}

/// How often a panel is gone over for so many rows at once.
#[inline(always)]
fn passes<L: Unpacking>(rows: usize) -> usize {
    if rows <= L::PANEL_ROWS { 1 } else { 2 }
}

impl<P: Products> Panelwise<'_, P> {
    fn ahead(&self, panel: usize, passes: usize) -> Ahead {
        let next = if panel + 1 < self.panels.end { panel + 1 } else { self.next };
        let from = if passes == 1 { panel * self.panel_bytes + AHEAD } else { next * self.panel_bytes };
        let part = self.panel_bytes / passes.max(1);
        let at = self.products.weights().as_ptr().wrapping_add(from);
        Ahead { at, panel: self.panel_bytes, stride: part / self.products.steps().max(1), part }
    }

    #[inline(always)]
    unsafe fn tile_of<L: Unpacking>(&self, panel: usize, rows: Range<usize>, ahead: &mut Ahead) {
        // SAFETY: passed on to the caller.
        unsafe {
            match rows.len() {
                1 => self.tile::<L, 1>(panel, rows.start, ahead),
                2 => self.tile::<L, 2>(panel, rows.start, ahead),
                3 => self.tile::<L, 3>(panel, rows.start, ahead),
                4 => self.tile::<L, 4>(panel, rows.start, ahead),
                5 => self.tile::<L, 5>(panel, rows.start, ahead),
                _ => unreachable!("a tile is at most `Unpacking::ROWS` high"),
            }
        }
    }

    /// `N` rows: where registers hold the sums of all outputs, weights are read in their order, or else sixteen outputs'
    /// after the other's.
    #[inline(always)]
    unsafe fn tile<L: Unpacking, const N: usize>(&self, panel: usize, row: usize, ahead: &mut Ahead) {
        let tile = |half| Tile { panel, row, half };
        // SAFETY: passed on to the caller.
        unsafe {
            if passes::<L>(N) == 1 {
                let sums = self.products.sums::<L, N, 2>(tile(0), ahead.pass());
                return self.write(panel, row, sums);
            }
            let first = self.products.sums::<L, N, 1>(tile(0), ahead.pass());
            let second = self.products.sums::<L, N, 1>(tile(1), ahead.pass());
            for (index, (first, second)) in first.into_iter().zip(second).enumerate() {
                self.write(panel, row + index, [[first[0], second[0]]]);
            }
        }
    }

    /// One row by `ABREAST` panels.
    #[inline(always)]
    unsafe fn abreast<L: Unpacking>(&self, panel: usize) {
        let tile = Tile { panel, row: 0, half: 0 };
        // SAFETY: passed on to the caller.
        unsafe {
            let [sums] = self.products.sums::<L, 1, { 2 * ABREAST }>(tile, self.ahead(panel, 1));
            for (index, sums) in sums.as_chunks::<2>().0.iter().enumerate() {
                self.write(panel + index, 0, [*sums]);
            }
        }
    }

    #[inline(always)]
    unsafe fn write<L: Unpacking, const N: usize>(&self, panel: usize, row: usize, sums: [[L; 2]; N]) {
        for (index, sums) in sums.into_iter().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { self.target.write(panel, row + index, self.products.finish(panel, sums)) }
        }
    }
}

/// Tiles of nearly one height, of at most `height` rows: they keep the registers busier than full ones and a rest.
fn tiles(rows: usize, height: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(height);
    (0..count).map(move |tile| tile * rows / count..(tile + 1) * rows / count)
}
