//! Rows of inputs rounded to 8 bits.
//!
//! Each group of a row has a scale of its own, so that a channel far out of the others' range costs precision only in its
//! group. All numbers here are whole and exact or one multiplication away from the input: they have the same bits with every
//! instruction set.

use super::{ITEM_BYTES, unpacked_coded::Words};
use crate::kernels::{
    Cpu,
    isa::Kernel,
    lanes::{Lanes, WIDTH},
    shared::SharedMut,
};

/// Largest magnitude of a rounded value: the same on both sides of zero.
const LARGEST: f32 = 127.0;

/// Rows in groups of whole lanes.
#[derive(Debug, Default)]
pub(in crate::kernels) struct Rounded {
    /// `[rows, groups * group]`; zeroes beyond a row's end.
    pub(super) values: Vec<i8>,
    /// The same unpacked, four by four, where that was asked for.
    pub(super) words: Vec<Words>,
    /// `[rows, groups]`
    pub(super) marks: Vec<Mark>,
    /// Groups of a row.
    pub(super) groups: usize,
    /// Values of a group.
    pub(super) group: usize,
}

/// What a group's values stand for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// An input is its value times this.
    pub(super) scale: f32,
    /// The sum of the values.
    pub(super) sum: i32,
}

impl Cpu {
    /// Rounds rows of `width` values in groups of `group`, a multiple of [`WIDTH`].
    pub(super) fn round(&mut self, input: &[f32], width: usize, group: usize, to: &mut Rounded) {
        let groups = width.div_ceil(group);
        let rows = input.len() / width.max(1);
        to.values.resize(rows * groups * group, 0);
        to.marks.resize(rows * groups, Mark::default());
        (to.groups, to.group) = (groups, group);
        let isa = self.isa;
        let (values, marks) = (SharedMut::new(&mut to.values), SharedMut::new(&mut to.marks));
        let per_item = (ITEM_BYTES / (4 * width.max(1))).max(1);
        self.pool.run(rows.div_ceil(per_item), &|item| {
            for row in item * per_item..rows.min((item + 1) * per_item) {
                let from = &input[row * width..][..width];
                // SAFETY: within the buffers, and each row is written by one item only.
                let (values, marks) = unsafe {
                    (
                        std::slice::from_raw_parts_mut(values.at(row * groups * group), groups * group),
                        std::slice::from_raw_parts_mut(marks.at(row * groups), groups),
                    )
                };
                isa.run(Round { from, group, values, marks });
            }
        });
    }
}

/// One row.
struct Round<'a> {
    from: &'a [f32],
    group: usize,
    values: &'a mut [i8],
    marks: &'a mut [Mark],
}

impl Kernel for Round<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let groups = self.from.chunks(self.group).zip(self.values.chunks_exact_mut(self.group));
        for ((from, to), mark) in groups.zip(self.marks) {
            // SAFETY: passed on to the caller.
            *mark = unsafe {
                if from.len() == to.len() { round::<L>(from, to) } else { round_rest::<L>(from, to) }
            };
        }
    }
}

/// A group of whole lanes.
#[inline(always)]
unsafe fn round<L: Lanes>(from: &[f32], to: &mut [i8]) -> Mark {
    let (from, to) = (from.as_chunks::<WIDTH>().0, to.as_chunks_mut::<WIDTH>().0);
    // SAFETY: all chunks hold sixteen elements; the instructions are present, by the caller's promise.
    unsafe {
        let zero = L::splat(0.0);
        let magnitude = |largest: L, chunk: &[f32; WIDTH]| {
            let values = L::load(chunk.as_ptr());
            largest.max(values.max(zero.sub(values)))
        };
        let largest = from.iter().fold(zero, magnitude).largest();
        // Below this the inverse may overflow; nothing that small counts.
        let inverse = if largest > f32::MIN_POSITIVE * LARGEST { LARGEST / largest } else { 0.0 };
        let mut sum = zero;
        for (from, to) in from.iter().zip(to) {
            let values = L::load(from.as_ptr()).mul(L::splat(inverse)).round();
            values.store_i8(to.as_mut_ptr());
            sum = sum.add(values);
        }
        Mark { scale: largest / LARGEST, sum: sum.sum() as i32 }
    }
}

/// A group that the row does not fill: zeroes take the place of what is missing.
#[inline(always)]
unsafe fn round_rest<L: Lanes>(from: &[f32], to: &mut [i8]) -> Mark {
    /// Values of the largest group.
    const LARGEST_GROUP: usize = 128;
    let mut padded = [0.0; LARGEST_GROUP];
    padded[..from.len()].copy_from_slice(from);
    // SAFETY: passed on to the caller.
    unsafe { round::<L>(&padded[..to.len()], to) }
}
