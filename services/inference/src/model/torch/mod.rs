//! The real model: any Llama-family folder in Hugging Face's format.
//!
//! | module | what it holds |
//! |---|---|
//! | `config` | config.json and generation_config.json, parsed and checked: what is not known is refused by name |
//! | `rope` | rotary frequencies: default, linear, dynamic, llama3 |
//! | `weights` | the tensors of a folder, each taken once, matrices in fewer bits if so stored or so asked |
//! | `adapter` | low-rank adapters in PEFT's format, and which rows of a step they belong to |
//! | `device` | which device, and libtorch's CUDA half loaded at run time |
//! | `decoder` | the forward pass, written once over a `Backend` |
//! | `backend` | where it is computed: our kernels (CPU), ours and libtorch's products (GPU), libtorch's operators (any) |
//!
//! Rules: nothing here panics on a folder's content; a libtorch error becomes `ModelError::Step`; every tensor of a
//! folder is either used or refused, so a model is never half right.

mod adapter;
mod backend;
mod config;
mod decoder;
mod device;
mod error;
mod rope;
#[cfg(test)]
mod tests;
mod weights;

use std::path::PathBuf;

pub use error::LoadError;
use weft_weights::Format;

use super::Model;

/// What to load, and how.
#[derive(Clone, Debug)]
pub struct TorchConfig {
    /// An HF folder: config.json, safetensors, and optionally generation_config.json and tokenizer.json.
    pub folder: PathBuf,
    /// Type of plain weights in memory.
    pub dtype: DtypeChoice,
    /// Type of keys and values.
    pub cache: CacheChoice,
    /// The format that matrices are quantized to while they are read; as the folder holds them where there is none.
    pub weights: Option<Format>,
    /// Where to compute.
    pub device: DeviceChoice,
    /// CPU threads that compute a step, the engine's own included; 0 for one per core.
    pub threads: usize,
}

/// Type of weights in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DtypeChoice {
    /// As config.json says; as the weights are stored where it says nothing.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of f32.
    BF16,
    /// IEEE 16-bit floats.
    F16,
}

/// Type of keys and values in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheChoice {
    /// That of plain weights.
    #[default]
    AsWeights,
    /// 8-bit numbers, with a unit for each position and head. On CPUs that our kernels are for.
    Int8,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device, or an error.
    Cuda(usize),
}

/// Loads a model folder.
///
/// # Errors
/// See [`LoadError`]: each names the file and what in it is wrong.
pub fn load(config: &TorchConfig) -> Result<Box<dyn Model>, LoadError> {
    decoder::load(config)
}
