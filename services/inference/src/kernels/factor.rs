//! What keys and values are multiplied with: queries and the exponentials of scores.

use half::bf16;

use super::{
    buffer::Plain,
    lanes::{Lanes, Pair, WIDTH},
};

/// A type of factors.
///
/// # Safety
/// Functions are under the contract of [`Lanes`]; pointers are valid for as many elements as are read or written.
pub(super) trait Factor: Plain + Default {
    /// Two rows of sixteen values, or the same two factors in all lanes.
    type Tile<L: Lanes>: Copy;

    /// The nearest factor.
    fn narrow(value: f32) -> Self;
    /// Narrows and writes sixteen values.
    unsafe fn store<L: Lanes>(values: L, to: *mut Self);
    /// Two factors in all lanes.
    unsafe fn splat<L: Lanes>(factors: *const Self) -> Self::Tile<L>;
    /// The first row of a tile, and zeroes.
    unsafe fn first_row<L: Lanes>(tile: Self::Tile<L>) -> Self::Tile<L>;
    /// Adds the products of both rows to the lanes of `sum`.
    unsafe fn add_dot<L: Lanes>(sum: L, factors: Self::Tile<L>, tile: Self::Tile<L>) -> L;
}

// SAFETY (of the functions below): passed on to `Lanes`, under the same contract.
impl Factor for f32 {
    type Tile<L: Lanes> = [L; 2];

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(values: L, to: *mut Self) {
        // SAFETY: see above.
        unsafe { values.store(to) }
    }
    #[inline(always)]
    unsafe fn splat<L: Lanes>(factors: *const Self) -> [L; 2] {
        // SAFETY: see above.
        unsafe { [L::splat(*factors), L::splat(*factors.add(1))] }
    }
    #[inline(always)]
    unsafe fn first_row<L: Lanes>(tile: [L; 2]) -> [L; 2] {
        // SAFETY: see above.
        unsafe { [tile[0], L::splat(0.0)] }
    }
    #[inline(always)]
    unsafe fn add_dot<L: Lanes>(sum: L, factors: [L; 2], tile: [L; 2]) -> L {
        // SAFETY: see above.
        unsafe { factors[1].mul_add(tile[1], factors[0].mul_add(tile[0], sum)) }
    }
}

// SAFETY (of the functions below): as above.
impl Factor for bf16 {
    type Tile<L: Lanes> = L::Pairs;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(values: L, to: *mut Self) {
        // SAFETY: see above.
        unsafe { values.store_bf16(to) }
    }
    #[inline(always)]
    unsafe fn splat<L: Lanes>(factors: *const Self) -> L::Pairs {
        // SAFETY: see above; two factors are a pair.
        unsafe { L::splat_pair(factors.cast::<Pair>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn first_row<L: Lanes>(tile: L::Pairs) -> L::Pairs {
        // SAFETY: see above.
        unsafe { L::firsts(tile) }
    }
    #[inline(always)]
    unsafe fn add_dot<L: Lanes>(sum: L, factors: L::Pairs, tile: L::Pairs) -> L {
        // SAFETY: see above.
        unsafe { sum.add_dot(factors, tile) }
    }
}

/// Narrows a row.
///
/// # Safety
/// The instructions of `L` are present.
#[inline(always)]
pub(super) unsafe fn narrow<L: Lanes, F: Factor>(from: &[f32], to: &mut [F]) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<WIDTH>(), to.as_chunks_mut::<WIDTH>());
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both hold sixteen elements.
        unsafe { F::store(L::load(from.as_ptr()), to.as_mut_ptr()) }
    }
    for (from, to) in from_rest.iter().zip(to_rest) {
        *to = F::narrow(*from);
    }
}
