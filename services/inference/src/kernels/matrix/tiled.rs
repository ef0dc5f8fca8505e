//! How unpacked products are shared out: panels among threads, the rows of each in tiles.

use std::ops::Range;

use super::{ITEM_BYTES, target::Target};
use crate::kernels::{
    Cpu,
    isa::{Unpacked, UnpackedKernel},
    lanes::Unpacking,
};

/// Products of rows by panels.
pub(super) trait Products: Copy + Sync {
    /// Weight bytes of a panel.
    fn panel_bytes(&self) -> usize;

    /// Sums of `N` rows from row `from` on, for `H` times sixteen outputs of a panel from its `first` half on.
    ///
    /// # Safety
    /// As for [`Unpacking`]; panel and rows are those of the operands.
    unsafe fn sums<L: Unpacking, const N: usize, const H: usize>(
        &self,
        panel: usize,
        from: usize,
        first: usize,
        sums: &mut [[L; 2]; N],
    );

    /// What the sums of one row stand for.
    ///
    /// # Safety
    /// As for [`Self::sums`].
    unsafe fn finish<L: Unpacking>(&self, panel: usize, sums: [L; 2]) -> [L; 2];
}

impl Cpu {
    /// Makes products of all rows by all panels.
    ///
    /// # Safety
    /// The operands have the target's rows and panels.
    pub(super) unsafe fn each_panel(&mut self, isa: Unpacked, products: impl Products, target: Target<'_>) {
        let (panels, per_item) = (target.panels(), (ITEM_BYTES / products.panel_bytes().max(1)).max(1));
        self.pool.run(panels.div_ceil(per_item), &|item| {
            let panels = item * per_item..panels.min((item + 1) * per_item);
            isa.run(Panelwise { products, target, panels });
        });
    }
}

/// The products of all rows by some panels.
struct Panelwise<'a, P> {
    products: P,
    target: Target<'a>,
    panels: Range<usize>,
}

impl<P: Products> UnpackedKernel for Panelwise<'_, P> {
    #[inline(always)]
    unsafe fn run<L: Unpacking>(self) {
        for panel in self.panels.clone() {
            for rows in tiles(self.target.rows(), L::ROWS) {
                // SAFETY: the instructions are present, by the caller's promise; so are panel and rows.
                unsafe { self.tile_of::<L>(panel, rows.start, rows.len()) }
            }
        }
    }
}

impl<P: Products> Panelwise<'_, P> {
    #[inline(always)]
    unsafe fn tile_of<L: Unpacking>(&self, panel: usize, from: usize, rows: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            match rows {
                1 => self.tile::<L, 1>(panel, from),
                2 => self.tile::<L, 2>(panel, from),
                3 => self.tile::<L, 3>(panel, from),
                4 => self.tile::<L, 4>(panel, from),
                5 => self.tile::<L, 5>(panel, from),
                _ => unreachable!("a tile is at most `Unpacking::ROWS` high"),
            }
        }
    }

    /// `N` rows: where registers hold the sums of all outputs, weights are read in their order, or else sixteen outputs'
    /// after the other's.
    #[inline(always)]
    unsafe fn tile<L: Unpacking, const N: usize>(&self, panel: usize, from: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sums = [[L::splat(0.0); 2]; N];
            if N <= L::PANEL_ROWS {
                self.products.sums::<L, N, 2>(panel, from, 0, &mut sums);
            } else {
                self.products.sums::<L, N, 1>(panel, from, 0, &mut sums);
                self.products.sums::<L, N, 1>(panel, from, 1, &mut sums);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                self.target.write(panel, from + row, self.products.finish(panel, sums));
            }
        }
    }
}

/// Tiles of nearly one height, of at most `height` rows: they keep the registers busier than full ones and a rest.
fn tiles(rows: usize, height: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(height);
    (0..count).map(move |tile| tile * rows / count..(tile + 1) * rows / count)
}
