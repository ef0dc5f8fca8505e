//! Two 256-bit registers, for machines with AVX2, FMA and F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Lanes, Pair, Unpacking, WIDTH};
use crate::kernels::factor::Widened;

/// Sixteen `f32` in two registers.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Avx2(__m256, __m256);

/// The lower and the upper bf16 of each pair, widened.
#[inline(always)]
unsafe fn widen_pairs(pairs: __m256i) -> (__m256, __m256) {
    // SAFETY: AVX2 is present, by the contract of `Lanes`.
    unsafe {
        let upper_half = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        (
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, upper_half)),
        )
    }
}

/// Eight values whose upper halves are those values rounded to bf16, ties to even.
#[inline(always)]
unsafe fn rounded(values: __m256) -> __m256i {
    // SAFETY: AVX2 is present, by the contract of `Lanes`.
    unsafe {
        let bits = _mm256_castps_si256(values);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)))
    }
}

/// Eight values rounded to bf16.
#[inline(always)]
unsafe fn narrow(values: __m256) -> __m128i {
    // SAFETY: AVX2 is present, by the contract of `Lanes`.
    unsafe {
        let upper = _mm256_srli_epi32::<16>(rounded(values));
        _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256::<1>(upper))
    }
}

/// The sum of both pairs' products added to eight lanes.
#[inline(always)]
unsafe fn add_dot(sum: __m256, a: __m256i, b: __m256i) -> __m256 {
    // SAFETY: AVX2 and FMA are present, by the contract of `Lanes`.
    unsafe {
        let ((a0, a1), (b0, b1)) = (widen_pairs(a), widen_pairs(b));
        _mm256_fmadd_ps(a1, b1, _mm256_fmadd_ps(a0, b0, sum))
    }
}

/// The products of four unsigned bytes with four signed ones added to eight lanes. By way of 16 bits, since the
/// instruction for bytes saturates.
#[inline(always)]
unsafe fn add_quad_dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    // SAFETY: AVX2 is present, by the contract of `Lanes`.
    unsafe {
        let even = _mm256_madd_epi16(
            _mm256_and_si256(unsigned, _mm256_set1_epi16(0xff)),
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed)),
        );
        let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(unsigned), _mm256_srai_epi16::<8>(signed));
        _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
    }
}

// SAFETY (of every function): the instructions are present and pointers are valid for sixteen elements, by the contract
// of `Lanes`; all loads and stores are the unaligned forms.
impl Lanes for Avx2 {
    type Pairs = [__m256i; 2];
    type Quads = [__m256i; 2];
    type Ints = [__m256i; 2];
    type Bf16Factor = Widened;
    const TILE_ROWS: usize = 3;
    const TILE_QUERIES: usize = 5;
    const TILE_SUMS: usize = 5;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: see above.
        unsafe {
            let widen = |at: *const f16| _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
            Self(widen(from), widen(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        unsafe {
            let widen = |at: *const i8| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())));
            Self(widen(from), widen(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: see above.
        unsafe {
            _mm_storeu_si128(to.cast(), narrow(self.0));
            _mm_storeu_si128(to.add(8).cast(), narrow(self.1));
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const Pair) -> Self::Pairs {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn firsts(pairs: Self::Pairs) -> Self::Pairs {
        // SAFETY: see above; the first value is the lower half.
        unsafe {
            let lower_half = _mm256_set1_epi32(0xffff);
            [_mm256_and_si256(pairs[0], lower_half), _mm256_and_si256(pairs[1], lower_half)]
        }
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: Pair) -> Self::Pairs {
        // SAFETY: see above; a pair has the size of an i32.
        unsafe { [_mm256_set1_epi32(std::mem::transmute::<Pair, i32>(pair)); 2] }
    }
    #[inline(always)]
    unsafe fn add_dot(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        // SAFETY: see above.
        unsafe { Self(add_dot(self.0, a[0], b[0]), add_dot(self.1, a[1], b[1])) }
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const u8) -> Self::Quads {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn nibbles(quads: Self::Quads) -> [Self::Quads; 2] {
        // SAFETY: see above.
        unsafe {
            let mask = _mm256_set1_epi8(0x0f);
            let upper = |quads| _mm256_and_si256(_mm256_srli_epi16::<4>(quads), mask);
            let [left, right] = quads;
            [[_mm256_and_si256(left, mask), _mm256_and_si256(right, mask)], [upper(left), upper(right)]]
        }
    }
    #[inline(always)]
    unsafe fn splat_quad(quad: [i8; 4]) -> Self::Quads {
        // SAFETY: see above; a quad has the size of an i32.
        unsafe { [_mm256_set1_epi32(std::mem::transmute::<[i8; 4], i32>(quad)); 2] }
    }
    #[inline(always)]
    unsafe fn splat_int(value: i32) -> Self::Ints {
        // SAFETY: see above.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }
    #[inline(always)]
    unsafe fn add_quad_dot(sum: Self::Ints, unsigned: Self::Quads, signed: Self::Quads) -> Self::Ints {
        // SAFETY: see above.
        unsafe {
            [add_quad_dot(sum[0], unsigned[0], signed[0]), add_quad_dot(sum[1], unsigned[1], signed[1])]
        }
    }
    #[inline(always)]
    unsafe fn from_ints(ints: Self::Ints) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        // SAFETY: see above.
        unsafe {
            let words = |values| {
                let ints = _mm256_cvtps_epi32(values);
                _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256::<1>(ints))
            };
            _mm_storeu_si128(to.cast(), _mm_packs_epi16(words(self.0), words(self.1)));
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_fmadd_ps(self.0, a.0, b.0), _mm256_fmadd_ps(self.1, a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see above.
        unsafe { Self(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let power = |n| {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            };
            Self(power(self.0), power(self.1))
        }
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, other: f32) -> Self {
        // SAFETY: see above.
        unsafe {
            let limit = _mm256_set1_epi32(count.min(WIDTH) as i32);
            let pick = |values, lanes| {
                let keep = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, lanes));
                _mm256_blendv_ps(_mm256_set1_ps(other), values, keep)
            };
            Self(
                pick(self.0, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                pick(self.1, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)),
            )
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

// SAFETY (of every function): as above.
impl Unpacking for Avx2 {
    type Words = [__m256i; 2];
    const ROWS: usize = 5;
    const PANEL_ROWS: usize = 2;

    #[inline(always)]
    unsafe fn widen(pairs: Self::Pairs) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let [(a0, a1), (b0, b1)] = [widen_pairs(pairs[0]), widen_pairs(pairs[1])];
            [Self(a0, b0), Self(a1, b1)]
        }
    }
    #[inline(always)]
    unsafe fn round_bf16(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let upper_half = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let round = |values| _mm256_castsi256_ps(_mm256_and_si256(rounded(values), upper_half));
            Self(round(self.0), round(self.1))
        }
    }
    #[inline(always)]
    unsafe fn no_words() -> Self::Words {
        // SAFETY: see above.
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn splat_words(pair: [i16; 2]) -> Self::Words {
        // SAFETY: see above; a pair has the size of an i32.
        unsafe { [_mm256_set1_epi32(std::mem::transmute::<[i16; 2], i32>(pair)); 2] }
    }
    #[inline(always)]
    unsafe fn bytes<const ODD: bool>(quads: Self::Quads) -> Self::Words {
        // SAFETY: see above.
        unsafe {
            if ODD {
                [_mm256_srli_epi16::<8>(quads[0]), _mm256_srli_epi16::<8>(quads[1])]
            } else {
                let lower = _mm256_set1_epi16(0xff);
                [_mm256_and_si256(quads[0], lower), _mm256_and_si256(quads[1], lower)]
            }
        }
    }
    #[inline(always)]
    unsafe fn add_word_dot(sum: Self::Ints, a: Self::Words, b: Self::Words) -> Self::Ints {
        // SAFETY: see above.
        unsafe {
            [
                _mm256_add_epi32(sum[0], _mm256_madd_epi16(a[0], b[0])),
                _mm256_add_epi32(sum[1], _mm256_madd_epi16(a[1], b[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn codes<const UPPER: bool>(quads: Self::Quads) -> Self::Quads {
        // SAFETY: see above.
        unsafe {
            let lower = _mm256_set1_epi8(0x0f);
            if UPPER {
                let upper = |quads| _mm256_and_si256(_mm256_srli_epi16::<4>(quads), lower);
                [upper(quads[0]), upper(quads[1])]
            } else {
                [_mm256_and_si256(quads[0], lower), _mm256_and_si256(quads[1], lower)]
            }
        }
    }
    #[inline(always)]
    unsafe fn add_code_dot(sums: Self::Words, codes: Self::Quads, signed: Self::Quads) -> Self::Words {
        // SAFETY: see above.
        unsafe {
            [
                _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(codes[0], signed[0])),
                _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(codes[1], signed[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add_words(sum: Self::Ints, words: Self::Words) -> Self::Ints {
        // SAFETY: see above.
        unsafe { Self::add_word_dot(sum, words, [_mm256_set1_epi16(1); 2]) }
    }
}
