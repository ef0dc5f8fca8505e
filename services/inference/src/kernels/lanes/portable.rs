//! The form that every machine has: plain loops, which compilers vectorize as well as they can.

use half::{bf16, f16};

use super::{Lanes, Pair, WIDTH};

/// Sixteen `f32` in an array.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Portable([f32; WIDTH]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

// SAFETY (of every function): pointers are valid for sixteen elements, by the contract of `Lanes`.
impl Lanes for Portable {
    type Pairs = [Pair; WIDTH];
    type Quads = [[u8; 4]; WIDTH];
    type Ints = [i32; WIDTH];
    type Bf16Factor = bf16;
    const TILE_ROWS: usize = 2;
    const TILE_QUERIES: usize = 2;
    const TILE_SUMS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; WIDTH])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { from.cast::<[f32; WIDTH]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: see above.
        let values = unsafe { from.cast::<[f16; WIDTH]>().read_unaligned() };
        Self(values.map(f16::to_f32))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        let values = unsafe { from.cast::<[i8; WIDTH]>().read_unaligned() };
        Self(values.map(f32::from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { to.cast::<[f32; WIDTH]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: see above.
        unsafe { to.cast::<[bf16; WIDTH]>().write_unaligned(self.0.map(bf16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const Pair) -> Self::Pairs {
        // SAFETY: see above.
        unsafe { from.cast::<Self::Pairs>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn firsts(pairs: Self::Pairs) -> Self::Pairs {
        pairs.map(|pair| [pair[0], bf16::ZERO])
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: Pair) -> Self::Pairs {
        [pair; WIDTH]
    }
    #[inline(always)]
    unsafe fn add_dot(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        Self(std::array::from_fn(|lane| {
            let [a0, a1] = a[lane].map(widen);
            let [b0, b1] = b[lane].map(widen);
            self.0[lane] + a0 * b0 + a1 * b1
        }))
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const u8) -> Self::Quads {
        // SAFETY: see above.
        unsafe { from.cast::<Self::Quads>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn nibbles(quads: Self::Quads) -> [Self::Quads; 2] {
        [quads.map(|quad| quad.map(|byte| byte & 0x0f)), quads.map(|quad| quad.map(|byte| byte >> 4))]
    }
    #[inline(always)]
    unsafe fn splat_quad(quad: [i8; 4]) -> Self::Quads {
        [quad.map(i8::cast_unsigned); WIDTH]
    }
    #[inline(always)]
    unsafe fn splat_int(value: i32) -> Self::Ints {
        [value; WIDTH]
    }
    #[inline(always)]
    unsafe fn add_quad_dot(sum: Self::Ints, unsigned: Self::Quads, signed: Self::Quads) -> Self::Ints {
        std::array::from_fn(|lane| {
            let bytes = unsigned[lane].iter().zip(signed[lane]);
            let products = bytes.map(|(unsigned, signed)| i32::from(*unsigned) * i32::from(signed as i8));
            sum[lane] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    unsafe fn from_ints(ints: Self::Ints) -> Self {
        Self(ints.map(|int| int as f32))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        // SAFETY: see above.
        unsafe { to.cast::<[i8; WIDTH]>().write_unaligned(self.0.map(|value| value as i8)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        // Not `f32::mul_add`: without the instruction that is a slow library call.
        Self(std::array::from_fn(|lane| self.0[lane] * a.0[lane] + b.0[lane]))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        /// Adding it pushes the fraction out of the mantissa.
        const SHIFTER: f32 = 12_582_912.0;
        Self(self.0.map(|value| (value + SHIFTER) - SHIFTER))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Self(self.0.map(|value| f32::from_bits(((value as i32 + 127) << 23) as u32)))
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, other: f32) -> Self {
        Self(std::array::from_fn(|lane| if lane < count { self.0[lane] } else { other }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut half = WIDTH / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}

/// Exact, and without the branch for NaN that `bf16::to_f32` has.
#[inline(always)]
fn widen(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}
