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
    tiled::{Ahead, Products, Tile},
};
use crate::kernels::{
    Cpu,
    buffer::Plain,
    isa::{Unpacked, UnpackedKernel},
    lanes::{CODE_DOTS, Unpacking, WIDTH},
    shared::SharedMut,
};

/// Four inputs as 16-bit numbers: the first and the third, then the second and the fourth.
pub(super) type Words = [[i16; 2]; 2];

/// Weights of few bits that meet inputs unpacked.
pub(super) trait UnpackedCoded: Coded {
    /// Four inputs.
    type Quad: Plain;

    /// The inputs, `[rows, inputs in quads]`.
    fn quads(input: &Rounded) -> *const Self::Quad;

    /// Steps of one group: how often it asks ahead.
    fn steps(&self) -> usize;

    /// Adds the dot products of `N` rows, `stride` apart, with `H` times sixteen outputs' weights of one group; from panel
    /// to panel there are so many bytes.
    ///
    /// # Safety
    /// `weights` is valid for a group's bytes, of each panel, but for those of the outputs before, `rows` for a group's
    /// quads of each row.
    unsafe fn add_unpacked<L: Unpacking, const N: usize, const H: usize>(
        &self,
        weights: (*const u8, usize),
        rows: (*const Self::Quad, usize),
        ahead: &mut Ahead,
        dots: &mut [[L::Ints; H]; N],
    );
}

impl UnpackedCoded for Int8 {
    type Quad = Words;

    fn quads(input: &Rounded) -> *const Words {
        input.words.as_ptr()
    }

    fn steps(&self) -> usize {
        int8::GROUP / 4
    }

    #[inline(always)]
    unsafe fn add_unpacked<L: Unpacking, const N: usize, const H: usize>(
        &self,
        (weights, panel): (*const u8, usize),
        (rows, stride): (*const Words, usize),
        ahead: &mut Ahead,
        dots: &mut [[L::Ints; H]; N],
    ) {
        for step in 0..self.steps() {
            // SAFETY: passed on to the caller.
            unsafe {
                let weights = weights.add(step * 4 * PANEL);
                ahead.ask::<H>();
                let at = rows.add(step);
                add_words::<L, N, H, false>((weights, panel), (at, stride), dots);
                add_words::<L, N, H, true>((weights, panel), (at, stride), dots);
            }
        }
    }
}

/// Where the weights of sixteen outputs lie, of those that follow one another in panels of so many bytes.
#[inline(always)]
fn sixteen(index: usize, panel: usize) -> usize {
    index / 2 * panel + index % 2 * 4 * WIDTH
}

/// Two of four inputs' products.
#[inline(always)]
unsafe fn add_words<L: Unpacking, const N: usize, const H: usize, const ODD: bool>(
    (weights, panel): (*const u8, usize),
    (rows, stride): (*const Words, usize),
    dots: &mut [[L::Ints; H]; N],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut words = [L::no_words(); H];
        for (index, words) in words.iter_mut().enumerate() {
            *words = L::bytes::<ODD>(L::load_quads(weights.add(sixteen(index, panel))));
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

    fn steps(&self) -> usize {
        self.group() / 8
    }

    #[inline(always)]
    unsafe fn add_unpacked<L: Unpacking, const N: usize, const H: usize>(
        &self,
        (weights, panel): (*const u8, usize),
        (rows, stride): (*const [i8; 4], usize),
        ahead: &mut Ahead,
        dots: &mut [[L::Ints; H]; N],
    ) {
        // Each step is two dot products.
        const STEPS: usize = CODE_DOTS / 2;
        for steps in 0..self.steps() / STEPS {
            // SAFETY: passed on to the caller; a group is a multiple of so many steps.
            unsafe {
                let mut words = [[L::no_words(); H]; N];
                for step in steps * STEPS..(steps + 1) * STEPS {
                    let weights = weights.add(int4::HEADER + step * int4::STEP);
                    ahead.ask::<H>();
                    let at = rows.add(2 * step);
                    add_codes::<L, N, H, false>((weights, panel), (at, stride), &mut words);
                    add_codes::<L, N, H, true>((weights, panel), (at.add(1), stride), &mut words);
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
    (weights, panel): (*const u8, usize),
    (rows, stride): (*const [i8; 4], usize),
    sums: &mut [[L::Words; H]; N],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut codes = [L::splat_quad([0; 4]); H];
        for (index, codes) in codes.iter_mut().enumerate() {
            *codes = L::codes::<UPPER>(L::load_quads(weights.add(sixteen(index, panel))));
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
        let bytes = weights.group_bytes() * input.groups;
        assert_eq!(weights.bytes().len(), target.panels() * bytes, "panels of this matrix");
        assert_eq!(input.marks.len(), target.rows() * input.groups, "as many rows of inputs");
        // SAFETY: see above.
        unsafe { self.each_panel(isa, Bytes { weights, input }, target) }
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

/// Weights and inputs.
struct Bytes<'a, W> {
    weights: &'a W,
    input: &'a Rounded,
}

impl<W> Clone for Bytes<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Bytes<'_, W> {}

impl<W: UnpackedCoded> Products for Bytes<'_, W> {
    fn weights(&self) -> &[u8] {
        self.weights.bytes()
    }

    fn steps(&self) -> usize {
        self.input.groups * self.weights.steps()
    }

    #[inline(always)]
    unsafe fn sums<L: Unpacking, const N: usize, const H: usize>(
        &self,
        Tile { panel, row: from, half: first }: Tile,
        mut ahead: Ahead,
    ) -> [[L; H]; N] {
        let Rounded { groups, group, .. } = *self.input;
        let bytes = self.weights.group_bytes();
        // SAFETY: the bytes hold `groups` groups of each panel, quads and marks as many of each row.
        unsafe {
            let mut sums = [[L::splat(0.0); H]; N];
            let mut weights = self.weights.bytes().as_ptr().add(panel * groups * bytes);
            let mut quads = W::quads(self.input).add(from * groups * group / 4);
            let mut marks = self.input.marks.as_ptr().add(from * groups);
            for _ in 0..groups {
                let mut dots = [[L::splat_int(0); H]; N];
                for (row, dots) in dots.iter_mut().enumerate() {
                    *dots = [W::start::<L>(*marks.add(row * groups)); H];
                }
                let half = (weights.add(first * 4 * WIDTH), groups * bytes);
                let rows = (quads, groups * group / 4);
                self.weights.add_unpacked::<L, N, H>(half, rows, &mut ahead, &mut dots);
                for (row, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
                    let mark = *marks.add(row * groups);
                    for (index, (sum, dots)) in sums.iter_mut().zip(dots).enumerate() {
                        let of_panel = weights.add(index / 2 * groups * bytes);
                        *sum = W::add_group(of_panel, first + index % 2, mark, dots, *sum);
                    }
                }
                (weights, quads, marks) = (weights.add(bytes), quads.add(group / 4), marks.add(1));
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn finish<L: Unpacking>(&self, panel: usize, sums: [L; 2]) -> [L; 2] {
        // SAFETY: passed on to the caller.
        unsafe { self.weights.finish(panel, sums) }
    }
}
