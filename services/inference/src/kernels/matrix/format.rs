//! How weights of floats meet inputs.

use half::f16;

use crate::kernels::{
    buffer::Plain,
    lanes::{Lanes, Pair, Unpacking},
};

/// How weights of one type meet inputs.
pub(in crate::kernels) trait Format: Plain {
    /// What an input is converted to beforehand.
    type Input: Plain;
    /// Sixteen weights, or one input sixteen times.
    type Loaded<L: Lanes>: Copy;

    unsafe fn weights<L: Lanes>(from: *const Self) -> Self::Loaded<L>;
    unsafe fn input<L: Lanes>(value: Self::Input) -> Self::Loaded<L>;
    unsafe fn add_product<L: Lanes>(sum: L, input: Self::Loaded<L>, weights: Self::Loaded<L>) -> L;

    /// Inputs of one step: 1 or 2.
    const INPUTS: usize;

    /// Sixteen outputs' weights of each input of one step.
    unsafe fn unpacked<L: Unpacking>(from: *const Self) -> [L; 2];
}

// SAFETY (of the functions below): passed on to `Lanes`, under the same contract.
impl Format for f32 {
    type Input = f32;
    type Loaded<L: Lanes> = L;

    #[inline(always)]
    unsafe fn weights<L: Lanes>(from: *const f32) -> L {
        // SAFETY: see above.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn input<L: Lanes>(value: f32) -> L {
        // SAFETY: see above.
        unsafe { L::splat(value) }
    }
    #[inline(always)]
    unsafe fn add_product<L: Lanes>(sum: L, input: L, weights: L) -> L {
        // SAFETY: see above.
        unsafe { input.mul_add(weights, sum) }
    }

    const INPUTS: usize = 1;
    #[inline(always)]
    unsafe fn unpacked<L: Unpacking>(from: *const f32) -> [L; 2] {
        // SAFETY: see above.
        unsafe { [L::load(from), L::splat(0.0)] }
    }
}

// SAFETY (of the functions below): as above.
impl Format for f16 {
    type Input = f32;
    type Loaded<L: Lanes> = L;

    #[inline(always)]
    unsafe fn weights<L: Lanes>(from: *const f16) -> L {
        // SAFETY: see above.
        unsafe { L::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn input<L: Lanes>(value: f32) -> L {
        // SAFETY: see above.
        unsafe { L::splat(value) }
    }
    #[inline(always)]
    unsafe fn add_product<L: Lanes>(sum: L, input: L, weights: L) -> L {
        // SAFETY: see above.
        unsafe { input.mul_add(weights, sum) }
    }

    const INPUTS: usize = 1;
    #[inline(always)]
    unsafe fn unpacked<L: Unpacking>(from: *const f16) -> [L; 2] {
        // SAFETY: see above.
        unsafe { [L::load_f16(from), L::splat(0.0)] }
    }
}

// SAFETY (of the functions below): as above.
impl Format for Pair {
    type Input = Pair;
    type Loaded<L: Lanes> = L::Pairs;

    #[inline(always)]
    unsafe fn weights<L: Lanes>(from: *const Pair) -> L::Pairs {
        // SAFETY: see above.
        unsafe { L::load_pairs(from) }
    }
    #[inline(always)]
    unsafe fn input<L: Lanes>(value: Pair) -> L::Pairs {
        // SAFETY: see above.
        unsafe { L::splat_pair(value) }
    }
    #[inline(always)]
    unsafe fn add_product<L: Lanes>(sum: L, input: L::Pairs, weights: L::Pairs) -> L {
        // SAFETY: see above.
        unsafe { sum.add_dot(input, weights) }
    }

    const INPUTS: usize = 2;
    #[inline(always)]
    unsafe fn unpacked<L: Unpacking>(from: *const Pair) -> [L; 2] {
        // SAFETY: see above.
        unsafe { L::widen(L::load_pairs(from)) }
    }
}
