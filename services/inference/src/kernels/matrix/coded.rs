//! Products by weights of few bits with inputs of 8 bits: dot products of whole numbers within a group, which are exact,
//! and sums of floats over the groups in their order.

use super::{
    ITEM_BYTES, PANEL,
    rounded::{Mark, Rounded},
    target::Target,
};
use crate::kernels::{Cpu, isa::Kernel, lanes::Lanes};

/// Rows of a tile at most: the dot products of more would leave no registers for the ends of groups.
const TILE_ROWS: usize = 8;

/// How weights of some number of bits are laid out, group after group of each panel, and meet inputs.
pub(super) trait Coded: Sync {
    /// Inputs of a group.
    fn group(&self) -> usize;
    /// `[panels, groups, bytes of a group]`
    fn bytes(&self) -> &[u8];
    /// Bytes of one group of a panel.
    fn group_bytes(&self) -> usize;

    /// What a group's dot products start from.
    ///
    /// # Safety
    /// As for [`Lanes`]; so for the functions below.
    unsafe fn start<L: Lanes>(mark: Mark) -> L::Ints;

    /// Adds the dot products of `N` rows, `stride` apart, with a panel's weights of one group.
    ///
    /// # Safety
    /// `weights` is valid for a group's bytes, `rows` for a group's inputs of each row.
    unsafe fn add_dots<L: Lanes, const N: usize>(
        &self,
        weights: *const u8,
        rows: (*const i8, usize),
        dots: &mut [[L::Ints; 2]; N],
    );

    /// Adds a group's dot products of sixteen outputs, the panel's first (`half` = 0) or last, to the sums of one row.
    ///
    /// # Safety
    /// `weights` is valid for a group's bytes.
    unsafe fn add_group<L: Lanes>(weights: *const u8, half: usize, mark: Mark, dots: L::Ints, sum: L) -> L;

    /// What the sums over all groups stand for.
    ///
    /// # Safety
    /// The matrix has this panel.
    unsafe fn finish<L: Lanes>(&self, panel: usize, sums: [L; 2]) -> [L; 2];
}

impl Cpu {
    pub(super) fn multiply_rounded<W: Coded>(&mut self, weights: &W, input: &Rounded, target: Target<'_>) {
        let panel_bytes = weights.group_bytes() * input.groups;
        let per_item = (ITEM_BYTES / panel_bytes.max(1)).max(1);
        let panels = target.panels();
        assert_eq!(weights.bytes().len(), panels * panel_bytes, "panels of this matrix");
        let isa = self.isa;
        self.pool.run(panels.div_ceil(per_item), &|item| {
            let panels = item * per_item..panels.min((item + 1) * per_item);
            isa.run(Panelwise { weights, input, target, panels });
        });
    }
}

/// The products of all rows by some panels.
struct Panelwise<'a, W> {
    weights: &'a W,
    input: &'a Rounded,
    target: Target<'a>,
    panels: std::ops::Range<usize>,
}

impl<W: Coded> Kernel for Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let rows = self.target.rows();
        let tiles = rows.div_ceil(L::TILE_ROWS.min(TILE_ROWS));
        for panel in self.panels.clone() {
            for tile in 0..tiles {
                let (from, to) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                // SAFETY: panel and rows are within the operands, whose lengths have been checked.
                unsafe { self.tile_of::<L>(panel, from, to - from) }
            }
        }
    }
}

impl<W: Coded> Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn tile_of<L: Lanes>(&self, panel: usize, from: usize, rows: usize) {
        // SAFETY: passed on to the caller.
        unsafe { by_height!(self, panel, from, rows; 1 2 3 4 5 6 7 8) }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize>(&self, panel: usize, from: usize) {
        let Rounded { groups, group, .. } = *self.input;
        let bytes = self.weights.group_bytes();
        // SAFETY: the bytes hold `groups` groups of this panel, values and marks as many of each row.
        unsafe {
            let mut weights = self.weights.bytes().as_ptr().add(panel * groups * bytes);
            let mut values = self.input.values.as_ptr().add(from * groups * group);
            let mut marks = self.input.marks.as_ptr().add(from * groups);
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            for _ in 0..groups {
                let mut dots = [[L::splat_int(0); 2]; ROWS];
                for (row, dots) in dots.iter_mut().enumerate() {
                    *dots = [W::start::<L>(*marks.add(row * groups)); 2];
                }
                self.weights.add_dots::<L, ROWS>(weights, (values, groups * group), &mut dots);
                for (row, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
                    let mark = *marks.add(row * groups);
                    for (half, (sum, dots)) in sums.iter_mut().zip(dots).enumerate() {
                        *sum = W::add_group(weights, half, mark, dots, *sum);
                    }
                }
                (weights, values, marks) = (weights.add(bytes), values.add(group), marks.add(1));
            }
            for (row, sums) in sums.iter().enumerate() {
                let sums = self.weights.finish(panel, *sums);
                self.target.write(panel, from + row, sums);
            }
        }
    }
}

/// Where the four bytes of a panel's output begin, among those of one step.
pub(super) fn quad(output: usize) -> usize {
    output % PANEL * 4
}
