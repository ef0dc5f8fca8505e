//! Weights of 4 bits in groups, each with a scale and a minimum.
//!
//! A group of a panel is `[PANEL scales][PANEL minima]` in f16, then `[steps of 8 inputs][PANEL outputs][4 bytes]`, where a
//! byte holds the code of one of the first four inputs below and of one of the last four above.

use half::f16;

use super::{
    MatrixError, PANEL,
    coded::{Coded, quad},
    rounded::Mark,
};
use crate::kernels::{
    buffer::{Arena, Buffer},
    lanes::{Lanes, WIDTH, prefetch},
};

/// Bytes of a group's scales and minima.
pub(super) const HEADER: usize = 2 * PANEL * size_of::<f16>();

/// Bytes of one step of 8 inputs.
pub(super) const STEP: usize = 4 * PANEL;

/// How far ahead of their use weights of several rows are asked for, in bytes: the machine's own prefetching stops at the end
/// of a page, and with several rows there is time to go on.
const AHEAD: usize = 4096;

/// A matrix of 4-bit weights.
#[derive(Debug)]
pub(super) struct Int4 {
    bytes: Buffer<u8>,
    groups: usize,
    group: usize,
}

/// The weights as files hold them.
pub(super) struct Groups<'a> {
    pub(super) codes: &'a [u8],
    pub(super) scales: &'a [f32],
    pub(super) mins: &'a [f32],
    pub(super) group: usize,
}

impl Int4 {
    pub(super) fn new(from: Groups<'_>, inputs: usize, arena: &mut Arena) -> Result<Self, MatrixError> {
        let group = from.group;
        if ![32, 64, 128].contains(&group) || !inputs.is_multiple_of(group) {
            return Err(MatrixError::Group { inputs, group });
        }
        let groups = inputs / group;
        let outputs = 2 * from.codes.len() / inputs.max(1);
        assert!(
            from.scales.len() == outputs * groups && from.mins.len() == outputs * groups,
            "a scale and a minimum for each group"
        );
        let panels = outputs.div_ceil(PANEL);
        let bytes = arena.zeroed(panels * groups * (HEADER + group / 8 * STEP))?;
        let mut packed = Self { bytes, groups, group };
        for (output, row) in from.codes.chunks_exact((inputs / 2).max(1)).enumerate() {
            packed.pack_codes(output, row);
            let range = output * groups..(output + 1) * groups;
            packed.pack_header(output, 0, ("scale", &from.scales[range.clone()]))?;
            packed.pack_header(output, PANEL, ("minimum", &from.mins[range]))?;
        }
        Ok(packed)
    }

    fn pack_codes(&mut self, output: usize, row: &[u8]) {
        for (pair, codes) in row.iter().enumerate() {
            for (input, code) in [(2 * pair, codes & 0x0f), (2 * pair + 1, codes >> 4)] {
                let (place, shift) = self.place(output, input);
                self.bytes[place] |= code << shift;
            }
        }
    }

    fn pack_header(
        &mut self,
        output: usize,
        first: usize,
        (what, values): (&'static str, &[f32]),
    ) -> Result<(), MatrixError> {
        for (group, value) in values.iter().enumerate() {
            let narrow = f16::from_f32(*value);
            if !narrow.is_finite() {
                return Err(MatrixError::Range { what, value: *value, output, group });
            }
            let at = self.header(output, group, first);
            self.bytes[at..at + 2].copy_from_slice(&narrow.to_ne_bytes());
        }
        Ok(())
    }

    /// The weight of an output and an input.
    pub(super) fn weight(&self, output: usize, input: usize) -> f32 {
        let (place, shift) = self.place(output, input);
        let code = self.bytes[place] >> shift & 0x0f;
        let header = |first| {
            let at = self.header(output, input / self.group, first);
            f16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32()
        };
        f32::from(code) * header(0) + header(PANEL)
    }

    /// Where a group's scale (`first` = 0) or minimum (`first` = `PANEL`) of an output begins.
    fn header(&self, output: usize, group: usize, first: usize) -> usize {
        (output / PANEL * self.groups + group) * self.group_bytes()
            + (first + output % PANEL) * size_of::<f16>()
    }

    /// The byte of a code, and how far up in it the code stands.
    fn place(&self, output: usize, input: usize) -> (usize, usize) {
        let group = output / PANEL * self.groups + input / self.group;
        let step = input % self.group / 8;
        let place = group * self.group_bytes() + HEADER + step * STEP + quad(output) + input % 4;
        (place, input % 8 / 4 * 4)
    }
}

impl Coded for Int4 {
    fn group(&self) -> usize {
        self.group
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn group_bytes(&self) -> usize {
        HEADER + self.group / 8 * STEP
    }

    #[inline(always)]
    unsafe fn start<L: Lanes>(_: Mark) -> L::Ints {
        // SAFETY: passed on to the caller.
        unsafe { L::splat_int(0) }
    }

    #[inline(always)]
    unsafe fn add_dots<L: Lanes, const N: usize>(
        &self,
        weights: *const u8,
        (rows, stride): (*const i8, usize),
        dots: &mut [[L::Ints; 2]; N],
    ) {
        for step in 0..self.group / 8 {
            // SAFETY: passed on to the caller.
            unsafe {
                let weights = weights.add(HEADER + step * STEP);
                if N > 1 {
                    prefetch(weights.wrapping_add(AHEAD));
                    prefetch(weights.wrapping_add(AHEAD + STEP / 2));
                }
                let left = L::nibbles(L::load_quads(weights));
                let right = L::nibbles(L::load_quads(weights.add(4 * WIDTH)));
                for (half, (left, right)) in left.into_iter().zip(right).enumerate() {
                    for (row, dots) in dots.iter_mut().enumerate() {
                        let quad = rows.add(row * stride + 8 * step + 4 * half).cast::<[i8; 4]>();
                        let input = L::splat_quad(quad.read());
                        dots[0] = L::add_quad_dot(dots[0], left, input);
                        dots[1] = L::add_quad_dot(dots[1], right, input);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_group<L: Lanes>(weights: *const u8, half: usize, mark: Mark, dots: L::Ints, sum: L) -> L {
        // SAFETY: a group begins with its scales and minima.
        unsafe {
            let scales = weights.cast::<f16>().add(half * WIDTH);
            let dots = L::from_ints(dots).mul(L::splat(mark.scale));
            let sum = dots.mul_add(L::load_f16(scales), sum);
            // Of the rounded inputs, not of the inputs: so the error of rounding meets the weight, not only its code.
            let inputs = L::splat(mark.scale * mark.sum as f32);
            inputs.mul_add(L::load_f16(scales.add(PANEL)), sum)
        }
    }

    #[inline(always)]
    unsafe fn finish<L: Lanes>(&self, _: usize, sums: [L; 2]) -> [L; 2] {
        sums
    }
}
