//! Products by weights that are floats.

use half::bf16;

use super::{ITEM_BYTES, PANEL, format::Format, target::Target};
use crate::kernels::{
    Cpu,
    factor::narrow,
    isa::Kernel,
    lanes::{Lanes, Pair, WIDTH},
    shared::SharedMut,
};

/// What a product takes.
pub(super) struct Operands<'a, W: Format> {
    pub(super) panels: &'a [W],
    pub(super) input: &'a [W::Input],
    /// Steps along the inputs.
    pub(super) steps: usize,
    pub(super) rows: usize,
}

impl Cpu {
    pub(super) fn multiply<W: Format>(&mut self, operands: &Operands<'_, W>, target: Target<'_>) {
        let panel_bytes = operands.steps * PANEL * size_of::<W>();
        let per_item = (ITEM_BYTES / panel_bytes.max(1)).max(1);
        let panels = target.panels();
        let isa = self.isa;
        self.pool.run(panels.div_ceil(per_item), &|item| {
            let panels = item * per_item..panels.min((item + 1) * per_item);
            isa.run(Panelwise { operands, target, panels });
        });
    }

    /// Rows of bf16 pairs from rows of `width` values, an odd last one paired with zero. Who is done with them gives them
    /// back as `self.pairs`.
    pub(super) fn narrow(&mut self, input: &[f32], width: usize) -> Vec<Pair> {
        let steps = width.div_ceil(2);
        let rows = input.len() / width.max(1);
        let mut pairs = std::mem::take(&mut self.pairs);
        pairs.resize(rows * steps, [bf16::ZERO; 2]);
        let isa = self.isa;
        let target = SharedMut::new(&mut pairs);
        let per_item = (ITEM_BYTES / (4 * width.max(1))).max(1);
        self.pool.run(rows.div_ceil(per_item), &|item| {
            for row in item * per_item..rows.min((item + 1) * per_item) {
                let from = &input[row * width..][..width];
                // SAFETY: each row of pairs is written by one item only.
                let to = unsafe {
                    std::slice::from_raw_parts_mut(target.at(row * steps).cast::<bf16>(), 2 * steps)
                };
                isa.run(Narrow { from, to });
            }
        });
        pairs
    }
}

/// One row; `to` may be one longer, for padding.
struct Narrow<'a> {
    from: &'a [f32],
    to: &'a mut [bf16],
}

impl Kernel for Narrow<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (to, padding) = self.to.split_at_mut(self.from.len());
        padding.fill(bf16::ZERO);
        // SAFETY: passed on to the caller.
        unsafe { narrow::<L, bf16>(self.from, to) }
    }
}

/// The products of all rows by some panels.
struct Panelwise<'a, W: Format> {
    operands: &'a Operands<'a, W>,
    target: Target<'a>,
    panels: std::ops::Range<usize>,
}

impl<W: Format> Kernel for Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let rows = self.operands.rows;
        let tiles = rows.div_ceil(L::TILE_ROWS);
        for panel in self.panels.clone() {
            for tile in 0..tiles {
                // Tiles of nearly one height keep the registers busier than full ones and a rest.
                let (from, to) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                // SAFETY: panel and rows are within the operands, whose lengths `product` has checked.
                unsafe { self.tile_of::<L>(panel, from, to - from) }
            }
        }
    }
}

impl<W: Format> Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn tile_of<L: Lanes>(&self, panel: usize, from: usize, rows: usize) {
        // SAFETY: passed on to the caller.
        unsafe { by_height!(self, panel, from, rows; 1 2 3 4 5 6 7 8 9 10 11 12) }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize>(&self, panel: usize, from: usize) {
        let steps = self.operands.steps;
        // SAFETY: `panels` holds `steps * PANEL` weights for this panel, `input` `steps` values for each row.
        unsafe {
            let mut weights = self.operands.panels.as_ptr().add(panel * steps * PANEL);
            let input = self.operands.input.as_ptr().add(from * steps);
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            for step in 0..steps {
                let left = W::weights::<L>(weights);
                let right = W::weights::<L>(weights.add(WIDTH));
                weights = weights.add(PANEL);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = W::input::<L>(*input.add(row * steps + step));
                    sums[0] = W::add_product(sums[0], value, left);
                    sums[1] = W::add_product(sums[1], value, right);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                self.target.write(panel, from + row, *sums);
            }
        }
    }
}
