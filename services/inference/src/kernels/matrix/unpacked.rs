//! Products of several rows by weights that are floats, on machines without dot products of narrow types: inputs are
//! unpacked to `f32` beforehand, weights in registers for as many rows as there is room for.
//!
//! Each sum has the same bits as in `dense`: the same fused multiply-adds, in the same order along the inputs.

use super::{
    PANEL,
    format::Format,
    target::Target,
    tiled::{Ahead, Products, Tile},
};
use crate::kernels::{
    Cpu,
    isa::{Unpacked, UnpackedKernel},
    lanes::{Unpacking, WIDTH},
};

impl Cpu {
    /// Multiplies rows of `inputs` values.
    pub(super) fn multiply_unpacked<W: Format>(
        &mut self,
        isa: Unpacked,
        panels: &[W],
        (input, inputs): (&[f32], usize),
        target: Target<'_>,
    ) {
        let len = inputs.div_ceil(W::INPUTS) * PANEL;
        assert_eq!(panels.len(), target.panels() * len, "panels of this matrix");
        assert_eq!(input.len(), target.rows() * inputs, "as many rows of inputs");
        // SAFETY: see above.
        unsafe { self.each_panel(isa, Floats { panels, input, inputs }, target) }
    }

    /// Rows of `width` values rounded to bf16. Who is done with them gives them back as `self.floats`.
    pub(super) fn round_to_bf16(&mut self, isa: Unpacked, input: &[f32], width: usize) -> Vec<f32> {
        let mut floats = std::mem::take(&mut self.floats);
        floats.resize(input.len(), 0.0);
        self.each_row(&mut floats, width, &|row, to| {
            isa.run(Round { from: &input[row * width..][..width], to });
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

/// Weights and inputs.
#[derive(Clone, Copy)]
struct Floats<'a, W> {
    panels: &'a [W],
    input: &'a [f32],
    inputs: usize,
}

impl<W: Format> Products for Floats<'_, W> {
    fn weights(&self) -> &[u8] {
        // SAFETY: plain numbers.
        unsafe { std::slice::from_raw_parts(self.panels.as_ptr().cast(), size_of_val(self.panels)) }
    }

    fn steps(&self) -> usize {
        self.inputs.div_ceil(W::INPUTS)
    }

    #[inline(always)]
    unsafe fn sums<L: Unpacking, const N: usize, const H: usize>(
        &self,
        Tile { panel, row, half: first }: Tile,
        mut ahead: Ahead,
    ) -> [[L; H]; N] {
        let steps = self.steps();
        let sixteen = |index: usize| index / 2 * steps * PANEL + index % 2 * WIDTH;
        // SAFETY: a panel holds a step for each `W::INPUTS` inputs, `input` `inputs` values for each row.
        unsafe {
            let mut sums = [[L::splat(0.0); H]; N];
            let weights = self.panels.as_ptr().add(panel * steps * PANEL + first * WIDTH);
            for step in 0..self.inputs / W::INPUTS {
                let weights = weights.add(step * PANEL);
                ahead.ask::<H>();
                for index in 0..H {
                    let weights = weights.add(sixteen(index));
                    for (of, weights) in W::unpacked::<L>(weights).into_iter().enumerate().take(W::INPUTS) {
                        self.add::<L, N, H>((row, W::INPUTS * step + of), weights, index, &mut sums);
                    }
                }
            }
            if !self.inputs.is_multiple_of(W::INPUTS) {
                let weights = weights.add(self.inputs / W::INPUTS * PANEL);
                for index in 0..H {
                    let [weights, _] = W::unpacked::<L>(weights.add(sixteen(index)));
                    self.add::<L, N, H>((row, self.inputs - 1), weights, index, &mut sums);
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn finish<L: Unpacking>(&self, _: usize, sums: [L; 2]) -> [L; 2] {
        sums
    }
}

impl<W: Format> Floats<'_, W> {
    /// Adds the products of one input and sixteen weights.
    #[inline(always)]
    unsafe fn add<L: Unpacking, const N: usize, const H: usize>(
        &self,
        (from, input): (usize, usize),
        weights: L,
        index: usize,
        sums: &mut [[L; H]; N],
    ) {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe {
                let value = *self.input.as_ptr().add((from + row) * self.inputs + input);
                sums[index] = L::splat(value).mul_add(weights, sums[index]);
            }
        }
    }
}
