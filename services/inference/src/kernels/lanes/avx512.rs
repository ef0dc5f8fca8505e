//! One 512-bit register, for machines with AVX-512 (F, BW, DQ, VL, VNNI), with or without its bf16 dot product.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Lanes, Pair};

/// Sixteen `f32` in a register; `BF16` says whether the machine has AVX512_BF16.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Avx512<const BF16: bool>(__m512);

/// The lower and the upper bf16 of each pair, widened.
#[inline(always)]
unsafe fn widen_pairs(pairs: __m512i) -> (__m512, __m512) {
    // SAFETY: AVX-512 is present, by the contract of `Lanes`.
    unsafe {
        let upper_half = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        (
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, upper_half)),
        )
    }
}

// SAFETY (of every function): the instructions are present and pointers are valid for sixteen elements, by the contract
// of `Lanes`; all loads and stores are the unaligned forms.
impl<const BF16: bool> Lanes for Avx512<BF16> {
    type Pairs = __m512i;
    type Quads = __m512i;
    type Ints = __m512i;
    type Bf16Factor = bf16;
    const TILE_ROWS: usize = 12;
    const TILE_QUERIES: usize = 8;
    const TILE_SUMS: usize = 24;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: see above; `BF16` is true only where AVX512_BF16 is present; the transmute only renames the type.
        unsafe {
            if BF16 {
                let narrow = _mm512_cvtneps_pbh(self.0);
                return _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(narrow));
            }
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
            _mm256_storeu_si256(to.cast(), narrow);
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const Pair) -> Self::Pairs {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn firsts(pairs: Self::Pairs) -> Self::Pairs {
        // SAFETY: see above; the first value is the lower half.
        unsafe { _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)) }
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: Pair) -> Self::Pairs {
        // SAFETY: see above; a pair has the size of an i32.
        unsafe { _mm512_set1_epi32(std::mem::transmute::<Pair, i32>(pair)) }
    }
    #[inline(always)]
    unsafe fn add_dot(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        // SAFETY: see above; `BF16` is true only where AVX512_BF16 is present; the transmutes only rename the type.
        unsafe {
            if BF16 {
                let bits = |pairs| std::mem::transmute::<__m512i, __m512bh>(pairs);
                Self(_mm512_dpbf16_ps(self.0, bits(a), bits(b)))
            } else {
                let ((a0, a1), (b0, b1)) = (widen_pairs(a), widen_pairs(b));
                Self(_mm512_fmadd_ps(a1, b1, _mm512_fmadd_ps(a0, b0, self.0)))
            }
        }
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const u8) -> Self::Quads {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn nibbles(quads: Self::Quads) -> [Self::Quads; 2] {
        // SAFETY: see above.
        unsafe {
            let mask = _mm512_set1_epi8(0x0f);
            [_mm512_and_si512(quads, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(quads), mask)]
        }
    }
    #[inline(always)]
    unsafe fn splat_quad(quad: [i8; 4]) -> Self::Quads {
        // SAFETY: see above; a quad has the size of an i32.
        unsafe { _mm512_set1_epi32(std::mem::transmute::<[i8; 4], i32>(quad)) }
    }
    #[inline(always)]
    unsafe fn splat_int(value: i32) -> Self::Ints {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn add_quad_dot(sum: Self::Ints, unsigned: Self::Quads, signed: Self::Quads) -> Self::Ints {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(sum, unsigned, signed) }
    }
    #[inline(always)]
    unsafe fn from_ints(ints: Self::Ints) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtepi32_ps(ints)) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(self.0))) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_fmadd_ps(self.0, a.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see above.
        unsafe { Self(_mm512_roundscale_ps::<NEAREST>(self.0)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_scalef_ps(_mm512_set1_ps(1.0), self.0)) }
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, other: f32) -> Self {
        let mask = if count >= 16 { u16::MAX } else { (1 << count) - 1 };
        // SAFETY: see above.
        unsafe { Self(_mm512_mask_blend_ps(mask, _mm512_set1_ps(other), self.0)) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}
