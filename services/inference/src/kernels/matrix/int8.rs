//! Weights of 8 bits with a scale for each output.
//!
//! A group of a panel is `[steps of 4 inputs][PANEL outputs][4 inputs]`. The byte dot product takes one side unsigned: weights
//! are stored with 128 added, and a group's dot products start from what that adds too much.

use super::{
    PANEL,
    coded::{Coded, quad},
    rounded::Mark,
};
use crate::kernels::{
    buffer::{Arena, Buffer, OutOfMemory},
    lanes::{Lanes, WIDTH},
};

/// Inputs that are rounded with one scale.
pub(super) const GROUP: usize = 64;

/// Bytes of one group of a panel.
const GROUP_BYTES: usize = GROUP * PANEL;

/// Added to each weight.
const OFFSET: u8 = 128;

/// A matrix of 8-bit weights.
#[derive(Debug)]
pub(super) struct Int8 {
    bytes: Buffer<u8>,
    groups: usize,
    /// Of each output; zeroes where the last panel has no outputs.
    scales: Vec<f32>,
}

impl Int8 {
    pub(super) fn new(values: &[i8], scales: &[f32], arena: &mut Arena) -> Result<Self, OutOfMemory> {
        let outputs = scales.len();
        let inputs = values.len() / outputs.max(1);
        assert_eq!(inputs * outputs, values.len(), "a scale for each output");
        let (groups, panels) = (inputs.div_ceil(GROUP), outputs.div_ceil(PANEL));
        let mut scales = scales.to_vec();
        scales.resize(panels * PANEL, 0.0);
        let mut packed = Self { bytes: arena.zeroed(panels * groups * GROUP_BYTES)?, groups, scales };
        for (output, row) in values.chunks_exact(inputs.max(1)).enumerate() {
            for (step, quad) in row.chunks(4).enumerate() {
                let at = packed.place(output, 4 * step);
                for (place, value) in packed.bytes[at..].iter_mut().zip(quad) {
                    *place = value.cast_unsigned().wrapping_add(OFFSET);
                }
            }
        }
        Ok(packed)
    }

    /// The weight of an output and an input.
    pub(super) fn weight(&self, output: usize, input: usize) -> f32 {
        let byte = self.bytes[self.place(output, input)];
        f32::from(byte.wrapping_sub(OFFSET).cast_signed()) * self.scales[output]
    }

    fn place(&self, output: usize, input: usize) -> usize {
        let group = output / PANEL * self.groups + input / GROUP;
        group * GROUP_BYTES + input % GROUP / 4 * 4 * PANEL + quad(output) + input % 4
    }
}

impl Coded for Int8 {
    fn group(&self) -> usize {
        GROUP
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn group_bytes(&self) -> usize {
        GROUP_BYTES
    }

    #[inline(always)]
    unsafe fn start<L: Lanes>(mark: Mark) -> L::Ints {
        // SAFETY: passed on to the caller.
        unsafe { L::splat_int(-i32::from(OFFSET) * mark.sum) }
    }

    #[inline(always)]
    unsafe fn add_dots<L: Lanes, const N: usize>(
        &self,
        weights: *const u8,
        (rows, stride): (*const i8, usize),
        dots: &mut [[L::Ints; 2]; N],
    ) {
        for step in 0..GROUP / 4 {
            // SAFETY: passed on to the caller.
            unsafe {
                let weights = weights.add(step * 4 * PANEL);
                let (left, right) = (L::load_quads(weights), L::load_quads(weights.add(4 * WIDTH)));
                for (row, dots) in dots.iter_mut().enumerate() {
                    let quad = rows.add(row * stride + 4 * step).cast::<[i8; 4]>();
                    let input = L::splat_quad(quad.read());
                    dots[0] = L::add_quad_dot(dots[0], left, input);
                    dots[1] = L::add_quad_dot(dots[1], right, input);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_group<L: Lanes>(_: *const u8, _: usize, mark: Mark, dots: L::Ints, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::from_ints(dots).mul_add(L::splat(mark.scale), sum) }
    }

    #[inline(always)]
    unsafe fn finish<L: Lanes>(&self, panel: usize, sums: [L; 2]) -> [L; 2] {
        // SAFETY: there is a scale for each output of each panel.
        unsafe {
            let scales = self.scales.as_ptr().add(panel * PANEL);
            [sums[0].mul(L::load(scales)), sums[1].mul(L::load(scales.add(WIDTH)))]
        }
    }
}
