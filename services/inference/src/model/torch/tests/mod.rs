//! Whole models against the outputs that transformers gave (tests/golden).

mod adapters;
mod cache;
mod driver;
mod folders;
mod golden;
mod gpu;
mod quantized;
mod scores;
mod smollm2;
mod steps;

use std::path::PathBuf;

use driver::Driver;

use super::{CacheChoice, DeviceChoice, DtypeChoice, TorchConfig, decoder::Source};
use crate::kernels::Isa;

/// A path in the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

fn on_cpu(folder: PathBuf, dtype: DtypeChoice) -> TorchConfig {
    TorchConfig {
        folder,
        dtype,
        cache: CacheChoice::AsWeights,
        weights: None,
        device: DeviceChoice::Cpu,
        threads: 2,
    }
}

/// The model as it is served.
fn served(folder: PathBuf, dtype: DtypeChoice) -> Driver {
    Driver::new(super::load(&on_cpu(folder, dtype)).unwrap())
}

/// The model on libtorch's operators.
fn on_libtorch(folder: PathBuf, dtype: DtypeChoice) -> Driver {
    Driver::new(Source::open(&on_cpu(folder, dtype)).unwrap().on_libtorch().unwrap())
}

/// The model on our kernels with these instructions.
fn on_kernels(folder: PathBuf, dtype: DtypeChoice, isa: Isa) -> Driver {
    Driver::new(Source::open(&on_cpu(folder, dtype)).unwrap().on_kernels(isa).unwrap())
}

/// Index of the largest value.
fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map(|(index, _)| index as u32).unwrap()
}

fn logsumexp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    f64::from(largest) + sum.ln()
}
