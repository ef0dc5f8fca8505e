//! Sixteen `f32` side by side, in the forms that machines have.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use half::{bf16, f16};

use super::factor::PairFactor;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use portable::Portable;

/// How many values one [`Lanes`] holds.
pub(super) const WIDTH: usize = 16;

/// Two neighbouring bf16 values of one row: the unit that AVX-512's dot product takes.
pub(super) type Pair = [bf16; 2];

/// Sixteen `f32` side by side.
///
/// # Safety
/// Every function may only run where the instructions of the implementing type are present ([`super::isa::Isa`] sees to
/// that), and pointers must be valid for [`WIDTH`] elements of their type; no alignment is needed.
pub(super) trait Lanes: Copy {
    /// Sixteen pairs.
    type Pairs: Copy;
    /// Sixteen times four bytes side by side: the unit of the byte dot product.
    type Quads: Copy;
    /// Sixteen `i32`.
    type Ints: Copy;
    /// What keys and values in bf16 are multiplied with.
    type Bf16Factor: PairFactor<Self>;
    /// Rows of activations that one product tile keeps in registers.
    const TILE_ROWS: usize;
    /// Queries of one attention tile.
    const TILE_QUERIES: usize;
    /// Sums that one attention tile keeps in registers.
    const TILE_SUMS: usize;

    /// The same value in all lanes.
    unsafe fn splat(value: f32) -> Self;
    /// Reads sixteen values.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads and widens sixteen values.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// Reads and widens sixteen values.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// Writes sixteen values.
    unsafe fn store(self, to: *mut f32);
    /// Rounds to the nearest (ties to even) and writes sixteen values.
    unsafe fn store_bf16(self, to: *mut bf16);
    /// Reads sixteen pairs.
    unsafe fn load_pairs(from: *const Pair) -> Self::Pairs;
    /// The first values of all pairs beside zeroes.
    unsafe fn firsts(pairs: Self::Pairs) -> Self::Pairs;
    /// The same pair in all lanes.
    unsafe fn splat_pair(pair: Pair) -> Self::Pairs;
    /// `self + a[0] * b[0] + a[1] * b[1]` in each lane.
    unsafe fn add_dot(self, a: Self::Pairs, b: Self::Pairs) -> Self;
    /// Reads 64 bytes.
    unsafe fn load_quads(from: *const u8) -> Self::Quads;
    /// The lower four bits of each byte, and the upper four.
    unsafe fn nibbles(quads: Self::Quads) -> [Self::Quads; 2];
    /// The same four bytes in all lanes.
    unsafe fn splat_quad(quad: [i8; 4]) -> Self::Quads;
    /// The same number in all lanes.
    unsafe fn splat_int(value: i32) -> Self::Ints;
    /// `sum` and the products of four unsigned bytes with four signed ones, in each lane; exact within an `i32`.
    unsafe fn add_quad_dot(sum: Self::Ints, unsigned: Self::Quads, signed: Self::Quads) -> Self::Ints;
    /// The nearest `f32` of each number.
    unsafe fn from_ints(ints: Self::Ints) -> Self;
    /// Writes whole numbers in -128..=127 as bytes.
    unsafe fn store_i8(self, to: *mut i8);
    /// Lane by lane.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane by lane.
    unsafe fn sub(self, other: Self) -> Self;
    /// Lane by lane.
    unsafe fn mul(self, other: Self) -> Self;
    /// Lane by lane.
    unsafe fn div(self, other: Self) -> Self;
    /// Lane by lane; for numbers.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * a + b`, fused where the machine can.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// The nearest whole numbers; for magnitudes below 2^22.
    unsafe fn round(self) -> Self;
    /// 2 to the power of whole numbers in -126..=127.
    unsafe fn exp2_whole(self) -> Self;
    /// The first `count` lanes of `self`, then `other`.
    unsafe fn first(self, count: usize, other: f32) -> Self;
    /// The sum of all lanes, in a fixed order.
    unsafe fn sum(self) -> f32;
    /// The largest lane; for numbers.
    unsafe fn largest(self) -> f32;
}

/// Lanes of machines that have no dot products of narrow types. There, products of several rows are faster where inputs are
/// unpacked once for all outputs, and weights for as many rows as registers hold.
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Unpacking: Lanes {
    /// Sixteen pairs of 16-bit numbers.
    type Words: Copy;
    /// Rows whose sums for sixteen outputs fit in registers, beside unpacked weights.
    const ROWS: usize;
    /// Rows whose sums for twice as many outputs do.
    const PANEL_ROWS: usize;

    /// The first values of all pairs, and the second ones.
    unsafe fn widen(pairs: Self::Pairs) -> [Self; 2];
    /// Each value rounded to bf16, ties to even.
    unsafe fn round_bf16(self) -> Self;
    /// Zeroes.
    unsafe fn no_words() -> Self::Words;
    /// The same pair in all lanes.
    unsafe fn splat_words(pair: [i16; 2]) -> Self::Words;
    /// Of each four bytes without sign, the first and the third (`ODD` = false) or the second and the fourth.
    unsafe fn bytes<const ODD: bool>(quads: Self::Quads) -> Self::Words;
    /// `sum` and the products of both numbers, in each lane.
    unsafe fn add_word_dot(sum: Self::Ints, a: Self::Words, b: Self::Words) -> Self::Ints;
    /// The lower four bits of each byte, or the upper four.
    unsafe fn codes<const UPPER: bool>(quads: Self::Quads) -> Self::Quads;
    /// `sums` and the products of two codes of four bits with two signed bytes, in each word: exact for
    /// [`CODE_DOTS`] times after [`Self::no_words`].
    unsafe fn add_code_dot(sums: Self::Words, codes: Self::Quads, signed: Self::Quads) -> Self::Words;
    /// `sum` and both numbers, in each lane.
    unsafe fn add_words(sum: Self::Ints, words: Self::Words) -> Self::Ints;
}

/// What a word has room for: 8 times 2 * 15 * 127.
pub(super) const CODE_DOTS: usize = 8;

/// Asks for the cache line at `at`, which need not be memory at all.
#[inline(always)]
pub(super) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that x86-64 always has, and that never fails.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// `e^x`, to about one unit in the last place of f32 and exactly 1 at 0; below -87 it stays at `e^-87`.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<L: Lanes>(x: L) -> L {
    /// Coefficients of the Taylor polynomial of e^r, highest first; |r| <= ln 2 / 2.
    const TERMS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    // SAFETY: passed on to the caller.
    unsafe {
        let x = x.max(L::splat(-87.0));
        // A positive overflow stays finite: it happens only in silu(-x) for x far below zero, where it divides.
        let x = L::splat(0.0).sub(L::splat(0.0).sub(x).max(L::splat(-88.0)));
        let n = x.mul(L::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts, so that the remainder is exact.
        let r = n.mul_add(L::splat(-0.693_359_4), x);
        let r = n.mul_add(L::splat(2.121_944_4e-4), r);
        let mut sum = L::splat(TERMS[0]);
        for term in &TERMS[1..] {
            sum = sum.mul_add(r, L::splat(*term));
        }
        sum.mul(n.exp2_whole())
    }
}
