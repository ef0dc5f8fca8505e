//! The arithmetic of a step, and the only room with `unsafe` in it.
//!
//! | module | what it holds |
//! |---|---|
//! | `lanes` | sixteen `f32` side by side: portable, AVX2 and AVX-512 forms of the same few operations |
//! | `isa` | which of them this machine has; the one place where a kernel is compiled for each |
//! | `pool` | a few threads that share out the items of one kernel call |
//! | `buffer` | memory outside the heap, zeroed lazily |
//! | `matrix` | weights rearranged into panels, and products by them |
//! | `lowrank` | what adapters add to products, many adapters in one call |
//! | `rows` | RMS norm, SwiGLU |
//! | `cache` | keys and values of one layer in blocks |
//! | `factor` | what keys and values are multiplied with |
//! | `attention` | rotary embedding, cache writes, attention straight from the blocks |
//! | `roofline` | what this machine can do at most, and what products make of it |
//! | `cuda` | the same on a GPU, beside libtorch's matrix products |
//!
//! Rules:
//! - A kernel is written once, over [`lanes::Lanes`]; the portable form is its twin and tests compare all that the machine has.
//! - The arithmetic of a row never depends on which rows stand beside it, nor on how a prompt was cut into chunks. So an
//!   answer is the same, bit for bit, alone or in a batch.
//! - Activations are `f32`; only weights and cache have the model's type.
//! - Safe functions check every length and index before a pointer is formed.
#![expect(
    unsafe_code,
    reason = "SIMD intrinsics, threads that write disjoint parts of one buffer, and launches on a GPU"
)]

mod attention;
mod buffer;
mod cache;
mod cuda;
mod factor;
mod isa;
mod lanes;
mod lowrank;
mod matrix;
mod pool;
pub mod roofline;
mod rows;
mod shared;
#[cfg(test)]
mod tests;

pub(crate) use attention::{HeadNorms, Layer, Plan, Sequence};
pub(crate) use buffer::Arena;
pub(crate) use cache::{CacheType, Geometry, LayerCache};
pub(crate) use cuda::{
    Attend, Coded, Enter, Gpu, GpuError, Heads, Linear, Ragged, Recording, Shares, flash_attention,
    load_libtorch_cuda,
};
pub(crate) use isa::{Isa, Loops};
pub(crate) use lowrank::{Adapted, Factors, LowRank};
pub(crate) use matrix::{Matrix, MatrixError, Mode, Weights};
pub(crate) use pool::Pool;

/// What computes: an instruction set and threads.
#[derive(Debug)]
pub(crate) struct Cpu {
    isa: Isa,
    pool: Pool,
    /// Inputs of the last product, for the next one to overwrite.
    pairs: Vec<lanes::Pair>,
    /// As `pairs`, of products by weights that are unpacked.
    floats: Vec<f32>,
    /// As `pairs`, of products by weights of few bits.
    rounded: matrix::Rounded,
}

impl Cpu {
    /// The best instructions this machine has, and `threads` threads (the caller's own included).
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(crate) fn new(isa: Isa, threads: usize) -> std::io::Result<Self> {
        Ok(Self {
            isa,
            pool: Pool::new(threads)?,
            pairs: Vec::new(),
            floats: Vec::new(),
            rounded: matrix::Rounded::default(),
        })
    }
}

/// The type of weights in memory, and of keys and values where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of f32.
    Bf16,
    /// IEEE 16-bit floats.
    F16,
}
