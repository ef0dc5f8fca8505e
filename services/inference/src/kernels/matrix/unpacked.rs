//! Products of several rows by weights that are floats, on machines without dot products of narrow types: inputs are
//! unpacked to `f32` beforehand, weights in registers for as many rows as there is room for.
//!
//! Each sum has the same bits as in `dense`: the same fused multiply-adds, in the same order along the inputs.

use std::ops::Range;

use super::{ITEM_BYTES, PANEL, format::Format, target::Target};
use crate::kernels::{
    Cpu,
    isa::{Unpacked, UnpackedKernel},
    lanes::{Unpacking, WIDTH, prefetch},
    shared::SharedMut,
};

/// Steps by which weights are asked for ahead of their use: the machine's own prefetching stops at the end of a page, and
/// does not keep up with lines that are read alternately.
const AHEAD: usize = 32;

impl Cpu {
    /// Multiplies rows of `inputs` values.
    pub(super) fn multiply_unpacked<W: Format>(
        &mut self,
        isa: Unpacked,
        panels: &[W],
        (input, inputs): (&[f32], usize),
        target: Target<'_>,
    ) {
        let len = panels.len() / target.panels().max(1);
        self.pool.run(target.panels(), &|panel| {
            isa.run(Panelwise { weights: &panels[panel * len..][..len], input, inputs, target, panel });
        });
    }

    /// Rows of `f32` rounded to bf16. Who is done with them gives them back as `self.floats`.
    pub(super) fn round_to_bf16(&mut self, isa: Unpacked, input: &[f32]) -> Vec<f32> {
        let mut floats = std::mem::take(&mut self.floats);
        floats.resize(input.len(), 0.0);
        let target = SharedMut::new(&mut floats);
        let per_item = ITEM_BYTES / size_of::<f32>();
        self.pool.run(input.len().div_ceil(per_item), &|item| {
            let from = &input[item * per_item..input.len().min((item + 1) * per_item)];
            // SAFETY: within the rows, and each part is written by one item only.
            let to = unsafe { std::slice::from_raw_parts_mut(target.at(item * per_item), from.len()) };
            isa.run(Round { from, to });
        });
        floats
    }
}

/// Values, rounded.
struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl UnpackedKernel for Round<'_> {
    #[inline(always)]
    unsafe fn run<L: Unpacking>(self) {
        let ((from, from_rest), (to, to_rest)) =
            (self.from.as_chunks::<WIDTH>(), self.to.as_chunks_mut::<WIDTH>());
        for (from, to) in from.iter().zip(to) {
            // SAFETY: both hold sixteen values; the instructions are present, by the caller's promise.
            unsafe { L::load(from.as_ptr()).round_bf16().store(to.as_mut_ptr()) }
        }
        for (from, to) in from_rest.iter().zip(to_rest) {
            *to = half::bf16::from_f32(*from).to_f32();
        }
    }
}

/// The products of all rows by one panel.
struct Panelwise<'a, W> {
    weights: &'a [W],
    input: &'a [f32],
    inputs: usize,
    target: Target<'a>,
    panel: usize,
}

impl<W: Format> UnpackedKernel for Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn run<L: Unpacking>(self) {
        for rows in tiles(self.target.rows(), L::ROWS) {
            // SAFETY: the instructions are present, by the caller's promise; the rows are within the input.
            unsafe { self.tile_of::<L>(rows.start, rows.len()) }
        }
    }
}

impl<W: Format> Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn tile_of<L: Unpacking>(&self, from: usize, rows: usize) {
        // SAFETY: passed on to the caller.
        unsafe { by_rows!(self.tile::<L>(from), rows) }
    }

    /// `N` rows: where registers hold the sums of all outputs, weights are read in their order, or else sixteen outputs'
    /// after the other's.
    #[inline(always)]
    unsafe fn tile<L: Unpacking, const N: usize>(&self, from: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sums = [[L::splat(0.0); 2]; N];
            if N <= L::PANEL_ROWS {
                self.sums::<L, N, 2>(from, 0, &mut sums);
            } else {
                self.sums::<L, N, 1>(from, 0, &mut sums);
                self.sums::<L, N, 1>(from, 1, &mut sums);
            }
            for (row, sums) in sums.iter().enumerate() {
                self.target.write(self.panel, from + row, *sums);
            }
        }
    }

    /// Sums of `H` times sixteen outputs from the `first` half on.
    #[inline(always)]
    unsafe fn sums<L: Unpacking, const N: usize, const H: usize>(
        &self,
        from: usize,
        first: usize,
        to: &mut [[L; 2]; N],
    ) {
        // SAFETY: the panel holds a step for each `W::INPUTS` inputs, `input` `inputs` values for each row.
        unsafe {
            let mut sums = [[L::splat(0.0); H]; N];
            let weights = self.weights.as_ptr().add(first * WIDTH);
            for step in 0..self.inputs / W::INPUTS {
                let weights = weights.add(step * PANEL);
                for half in 0..H {
                    let weights = weights.add(half * WIDTH);
                    prefetch(weights.wrapping_add(AHEAD * PANEL));
                    for (of, weights) in W::unpacked::<L>(weights).into_iter().enumerate().take(W::INPUTS) {
                        self.add::<L, N, H>((from, W::INPUTS * step + of), weights, half, &mut sums);
                    }
                }
            }
            if !self.inputs.is_multiple_of(W::INPUTS) {
                let weights = weights.add(self.inputs / W::INPUTS * PANEL);
                for half in 0..H {
                    let [weights, _] = W::unpacked::<L>(weights.add(half * WIDTH));
                    self.add::<L, N, H>((from, self.inputs - 1), weights, half, &mut sums);
                }
            }
            for (to, sums) in to.iter_mut().zip(sums) {
                to[first..first + H].copy_from_slice(&sums);
            }
        }
    }

    /// Adds the products of one input and sixteen weights.
    #[inline(always)]
    unsafe fn add<L: Unpacking, const N: usize, const H: usize>(
        &self,
        (from, input): (usize, usize),
        weights: L,
        half: usize,
        sums: &mut [[L; H]; N],
    ) {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe {
                let value = *self.input.as_ptr().add((from + row) * self.inputs + input);
                sums[half] = L::splat(value).mul_add(weights, sums[half]);
            }
        }
    }
}

/// Tiles of nearly one height, of at most `height` rows: they keep the registers busier than full ones and a rest.
pub(super) fn tiles(rows: usize, height: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(height);
    (0..count).map(move |tile| tile * rows / count..(tile + 1) * rows / count)
}
