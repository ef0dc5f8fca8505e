//! What keys and values are multiplied with: queries and the exponentials of scores.

use half::bf16;

use super::{
    buffer::Plain,
    lanes::{Lanes, Pair, Unpacking, WIDTH},
};

/// A type of factors.
///
/// A tile is taken in steps: both rows at once where one instruction takes pairs, else one row after the other, so that
/// registers are left for sums.
///
/// # Safety
/// Functions are under the contract of [`Lanes`]; pointers are valid for as many elements as are read or written.
pub(super) trait Factor<L: Lanes>: Plain + Default {
    /// What one step takes: sixteen values of each of its rows, or the same factors in all lanes.
    type Tile: Copy;
    /// Steps of a tile: 1 or 2.
    const STEPS: usize;

    /// The nearest factor.
    fn narrow(value: f32) -> Self;
    /// Narrows and writes sixteen values.
    unsafe fn store(values: L, to: *mut Self);
    /// The factors that a step takes, of two, in all lanes.
    unsafe fn splat(factors: *const Self, step: usize) -> Self::Tile;
    /// Adds the products of the step's rows to the lanes of `sum`.
    unsafe fn add_dot(sum: L, factors: Self::Tile, tile: Self::Tile) -> L;
}

// SAFETY (of the functions below): passed on to `Lanes`, under the same contract.
impl<L: Lanes> Factor<L> for f32 {
    type Tile = L;
    const STEPS: usize = 2;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn store(values: L, to: *mut Self) {
        // SAFETY: see above.
        unsafe { values.store(to) }
    }
    #[inline(always)]
    unsafe fn splat(factors: *const Self, step: usize) -> L {
        // SAFETY: see above.
        unsafe { L::splat(*factors.add(step)) }
    }
    #[inline(always)]
    unsafe fn add_dot(sum: L, factors: L, tile: L) -> L {
        // SAFETY: see above.
        unsafe { factors.mul_add(tile, sum) }
    }
}

/// Factors of keys and values in bf16.
pub(super) trait PairFactor<L: Lanes>: Factor<L> {
    /// Reads what a step takes of a tile; of its first row only, and zeroes, where `alone`.
    unsafe fn load_pairs(from: *const Pair, step: usize, alone: bool) -> Self::Tile;
}

// SAFETY (of the functions below): as above.
impl<L: Lanes> Factor<L> for bf16 {
    type Tile = L::Pairs;
    const STEPS: usize = 1;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    #[inline(always)]
    unsafe fn store(values: L, to: *mut Self) {
        // SAFETY: see above.
        unsafe { values.store_bf16(to) }
    }
    #[inline(always)]
    unsafe fn splat(factors: *const Self, _: usize) -> L::Pairs {
        // SAFETY: see above; two factors are a pair.
        unsafe { L::splat_pair(factors.cast::<Pair>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add_dot(sum: L, factors: L::Pairs, tile: L::Pairs) -> L {
        // SAFETY: see above.
        unsafe { sum.add_dot(factors, tile) }
    }
}

impl<L: Lanes> PairFactor<L> for bf16 {
    #[inline(always)]
    unsafe fn load_pairs(from: *const Pair, _: usize, alone: bool) -> L::Pairs {
        // SAFETY: passed on to `Lanes`.
        unsafe {
            let pairs = L::load_pairs(from);
            if alone { L::firsts(pairs) } else { pairs }
        }
    }
}

/// A value of bf16 in an `f32`, for machines without a dot product of pairs: there, factors are widened once and not for
/// each tile. Products and sums have the same bits.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(super) struct Widened(f32);

// SAFETY (of the functions below): as above; `Widened` is an `f32`.
impl<L: Unpacking> Factor<L> for Widened {
    type Tile = L;
    const STEPS: usize = 2;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self(bf16::from_f32(value).to_f32())
    }
    #[inline(always)]
    unsafe fn store(values: L, to: *mut Self) {
        // SAFETY: see above.
        unsafe { values.round_bf16().store(to.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(factors: *const Self, step: usize) -> L {
        // SAFETY: see above.
        unsafe { <f32 as Factor<L>>::splat(factors.cast(), step) }
    }
    #[inline(always)]
    unsafe fn add_dot(sum: L, factors: L, tile: L) -> L {
        // SAFETY: see above.
        unsafe { <f32 as Factor<L>>::add_dot(sum, factors, tile) }
    }
}

impl<L: Unpacking> PairFactor<L> for Widened {
    #[inline(always)]
    unsafe fn load_pairs(from: *const Pair, step: usize, _: bool) -> L {
        // SAFETY: passed on to `Lanes`.
        unsafe { L::widen(L::load_pairs(from))[step] }
    }
}

/// Narrows a row.
///
/// # Safety
/// The instructions of `L` are present.
#[inline(always)]
pub(super) unsafe fn narrow<L: Lanes, F: Factor<L>>(from: &[f32], to: &mut [F]) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<WIDTH>(), to.as_chunks_mut::<WIDTH>());
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both hold sixteen elements.
        unsafe { F::store(L::load(from.as_ptr()), to.as_mut_ptr()) }
    }
    for (from, to) in from_rest.iter().zip(to_rest) {
        *to = F::narrow(*from);
    }
}
