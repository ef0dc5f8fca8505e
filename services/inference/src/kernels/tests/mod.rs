//! Kernels against plain loops in f64, with every instruction set that this machine has, on random data and odd sizes.

mod attention;
mod coded;
mod lowrank;
mod pool;
mod product;
mod rows;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Cpu, Isa};

/// Reproducible values in -1..1.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A CPU for each instruction set, alone and with helpers.
fn cpus() -> impl Iterator<Item = Cpu> {
    let threads = |isa| [1, 3].map(|threads| Cpu::new(isa, threads).unwrap());
    Isa::available().into_iter().flat_map(threads)
}

fn assert_close(ours: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (index, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        let error = (f64::from(*ours) - expected).abs();
        assert!(error <= tolerance, "{what}: value {index} is {ours}, expected {expected}");
    }
}
