//! Products by weights of few bits on machines without dot products of bytes. What these machines have saturates (two
//! bytes) or takes 16-bit numbers: weights of 8 bits are unpacked to those, in registers for as many rows as there is room
//! for, and their inputs beforehand; codes of 4 bits are so small that the first never saturates.
//!
//! Dot products are exact and groups are added in their order, so each sum has the same bits as in `coded`.

use super::{
    ITEM_BYTES, PANEL,
    coded::Coded,
    int4::{self, Int4},
    int8::{self, Int8},
    rounded::Rounded,
    target::Target,
    unpacked::tiles,
};
use crate::kernels::{
    Cpu,
    buffer::Plain,
    isa::{Unpacked, UnpackedKernel},
    lanes::{CODE_DOTS, Unpacking, WIDTH, prefetch},
    shared::SharedMut,
};

/// How far ahead of their use weights are asked for, in bytes.
const AHEAD: usize = 4096;

/// Four inputs as 16-bit numbers: the first and the third, then the second and the fourth.
pub(super) type Words = [[i16; 2]; 2];

/// Weights of few bits that meet inputs unpacked.
pub(super) trait UnpackedCoded: Coded {
    /// Four inputs.
    type Quad: Plain;

    /// The inputs, `[rows, inputs in quads]`.
    fn quads(input: &Rounded) -> *const Self::Quad;

    /// Adds the dot products of `N` rows, `stride` apart, with `H` times sixteen outputs' weights of one group.
    ///
    /// # Safety
    /// `weights` is valid for a group's bytes but for those of the outputs before, `rows` for a group's quads of each row.
    unsafe fn add_unpacked<L: Unpacking, const N: usize, const H: usize>(
        &self,
        weights: *const u8,
        rows: (*const Self::Quad, usize),
        dots: &mut [[L::Ints; H]; N],
    );
}

impl UnpackedCoded for Int8 {
    type Quad = Words;

    fn quads(input: &Rounded) -> *const Words {
        input.words.as_ptr()
    }

    #[inline(always)]
    unsafe fn add_unpacked<L: Unpacking, const N: usize, const H: usize>(
        &self,
        weights: *const u8,
        (rows, stride): (*const Words, usize),
        dots: &mut [[L::Ints; H]; N],
    ) {
        for step in 0..int8::GROUP / 4 {
            // SAFETY: passed on to the caller.
            unsafe {
                let weights = weights.add(step * 4 * PANEL);
                ask_ahead::<H>(weights);
                let at = rows.add(step);
                add_words::<L, N, H, false>(weights, (at, stride), dots);
                add_words::<L, N, H, true>(weights, (at, stride), dots);
            }
        }
    }
}

/// Asks for what will be read after some steps.
#[inline(always)]
fn ask_ahead<const H: usize>(weights: *const u8) {
    for half in 0..H {
        prefetch(weights.wrapping_add(AHEAD + half * 4 * WIDTH));
    }
}

/// Two of four inputs' products.
#[inline(always)]
unsafe fn add_words<L: Unpacking, const N: usize, const H: usize, const ODD: bool>(
    weights: *const u8,
    (rows, stride): (*const Words, usize),
    dots: &mut [[L::Ints; H]; N],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut words = [L::no_words(); H];
        for (half, words) in words.iter_mut().enumerate() {
            *words = L::bytes::<ODD>(L::load_quads(weights.add(half * 4 * WIDTH)));
        }
        for (row, dots) in dots.iter_mut().enumerate() {
            let input = L::splat_words((*rows.add(row * stride))[usize::from(ODD)]);
            for (dot, words) in dots.iter_mut().zip(words) {
                *dot = L::add_word_dot(*dot, words, input);
            }
        }
    }
}

impl UnpackedCoded for Int4 {
    type Quad = [i8; 4];

    fn quads(input: &Rounded) -> *const [i8; 4] {
        input.values.as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn add_unpacked<L: Unpacking, const N: usize, const H: usize>(
        &self,
        weights: *const u8,
        (rows, stride): (*const [i8; 4], usize),
        dots: &mut [[L::Ints; H]; N],
    ) {
        // Each step is two dot products.
        const STEPS: usize = CODE_DOTS / 2;
        for steps in 0..self.group() / 8 / STEPS {
            // SAFETY: passed on to the caller; a group is a multiple of so many steps.
            unsafe {
                let mut words = [[L::no_words(); H]; N];
                for step in steps * STEPS..(steps + 1) * STEPS {
                    let weights = weights.add(int4::HEADER + step * int4::STEP);
                    ask_ahead::<H>(weights);
                    let at = rows.add(2 * step);
                    add_codes::<L, N, H, false>(weights, (at, stride), &mut words);
                    add_codes::<L, N, H, true>(weights, (at.add(1), stride), &mut words);
                }
                for (dots, words) in dots.iter_mut().zip(words) {
                    for (dot, words) in dots.iter_mut().zip(words) {
                        *dot = L::add_words(*dot, words);
                    }
                }
            }
        }
    }
}

/// Four of eight inputs' products.
#[inline(always)]
unsafe fn add_codes<L: Unpacking, const N: usize, const H: usize, const UPPER: bool>(
    weights: *const u8,
    (rows, stride): (*const [i8; 4], usize),
    sums: &mut [[L::Words; H]; N],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut codes = [L::splat_quad([0; 4]); H];
        for (half, codes) in codes.iter_mut().enumerate() {
            *codes = L::codes::<UPPER>(L::load_quads(weights.add(half * 4 * WIDTH)));
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let input = L::splat_quad(*rows.add(row * stride));
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = L::add_code_dot(*sum, codes, input);
            }
        }
    }
}

impl Cpu {
    pub(super) fn multiply_unpacked_coded<W: UnpackedCoded>(
        &mut self,
        isa: Unpacked,
        weights: &W,
        input: &Rounded,
        target: Target<'_>,
    ) {
        let panels = target.panels();
        assert_eq!(
            weights.bytes().len(),
            panels * weights.group_bytes() * input.groups,
            "panels of this matrix"
        );
        let per_item = (ITEM_BYTES / (weights.group_bytes() * input.groups).max(1)).max(1);
        self.pool.run(panels.div_ceil(per_item), &|item| {
            for panel in item * per_item..panels.min((item + 1) * per_item) {
                isa.run(Panelwise { weights, input, target, panel });
            }
        });
    }

    /// Fills `words` from `values`.
    pub(super) fn unpack(&mut self, isa: Unpacked, rounded: &mut Rounded) {
        let Rounded { values, words, .. } = rounded;
        let quads = values.as_chunks::<4>().0;
        words.resize(quads.len(), Words::default());
        let words = SharedMut::new(words);
        let per_item = ITEM_BYTES / size_of::<Words>();
        self.pool.run(quads.len().div_ceil(per_item), &|item| {
            let quads = &quads[item * per_item..quads.len().min((item + 1) * per_item)];
            // SAFETY: within the words, and each part is written by one item only.
            let words = unsafe { std::slice::from_raw_parts_mut(words.at(item * per_item), quads.len()) };
            isa.run(Unpack { quads, words });
        });
    }
}

struct Unpack<'a> {
    quads: &'a [[i8; 4]],
    words: &'a mut [Words],
}

impl UnpackedKernel for Unpack<'_> {
    #[inline(always)]
    unsafe fn run<L: Unpacking>(self) {
        for (quad, words) in self.quads.iter().zip(self.words) {
            let [a, b, c, d] = *quad;
            *words = [[i16::from(a), i16::from(c)], [i16::from(b), i16::from(d)]];
        }
    }
}

/// The products of all rows by one panel.
struct Panelwise<'a, W> {
    weights: &'a W,
    input: &'a Rounded,
    target: Target<'a>,
    panel: usize,
}

impl<W: UnpackedCoded> UnpackedKernel for Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn run<L: Unpacking>(self) {
        for rows in tiles(self.target.rows(), L::ROWS) {
            // SAFETY: the instructions are present, by the caller's promise; the rows are within the input.
            unsafe { self.tile_of::<L>(rows.start, rows.len()) }
        }
    }
}

impl<W: UnpackedCoded> Panelwise<'_, W> {
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
                let sums = self.weights.finish(self.panel, *sums);
                self.target.write(self.panel, from + row, sums);
            }
        }
    }

    /// Sums of `H` times sixteen outputs from the `first` half on.
    #[inline(always)]
    unsafe fn sums<L: Unpacking, const N: usize, const H: usize>(
        &self,
        from: usize,
        first: usize,
        sums: &mut [[L; 2]; N],
    ) {
        let Rounded { groups, group, .. } = *self.input;
        let bytes = self.weights.group_bytes();
        // SAFETY: the bytes hold `groups` groups of this panel, quads and marks as many of each row.
        unsafe {
            let mut weights = self.weights.bytes().as_ptr().add(self.panel * groups * bytes);
            let mut quads = W::quads(self.input).add(from * groups * group / 4);
            let mut marks = self.input.marks.as_ptr().add(from * groups);
            for _ in 0..groups {
                let mut dots = [[L::splat_int(0); H]; N];
                for (row, dots) in dots.iter_mut().enumerate() {
                    *dots = [W::start::<L>(*marks.add(row * groups)); H];
                }
                let half = weights.add(first * 4 * WIDTH);
                self.weights.add_unpacked::<L, N, H>(half, (quads, groups * group / 4), &mut dots);
                for (row, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
                    let mark = *marks.add(row * groups);
                    for (half, dots) in dots.into_iter().enumerate() {
                        let half = first + half;
                        sums[half] = W::add_group(weights, half, mark, dots, sums[half]);
                    }
                }
                (weights, quads, marks) = (weights.add(bytes), quads.add(group / 4), marks.add(1));
            }
        }
    }
}
