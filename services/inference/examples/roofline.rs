//! What the machine allows, for `tests/bench`: how fast all cores read memory, and libtorch's peak matrix products.
//!
//! ```text
//! cargo run --release -p weft-inference --example roofline -- [THREADS]
//! ```
//!
//! One line of JSON: bytes a second, and operations a second (two for each multiply-add) by type.
#![expect(clippy::print_stdout, reason = "a program reads it")]

use std::{error::Error, hint::black_box, thread, time::Duration};

use tch::{Device, Kind, TchError, Tensor};
use tokio::time::Instant;

/// Words of the buffer that is read: 1 GiB, far more than any cache.
const WORDS: usize = 1 << 27;
/// Words that are added at once: enough chains to hide the latency of an addition.
const LANES: usize = 32;
/// Rows and columns of the matrices.
const SIDE: i64 = 2048;
/// Measurements, of which the best counts: what disturbs one only ever slows it.
const TIMES: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let cores = thread::available_parallelism()?.get();
    let threads = std::env::args().nth(1).map_or(Ok(cores), |threads| threads.parse())?;
    tch::set_num_threads(i32::try_from(threads)?);
    let report = serde_json::json!({
        "threads": threads,
        "read_bytes_per_s": read_speed(threads),
        "products_per_s": {
            "f32": product_speed(|a, b| a.f_matmul(b), Kind::Float)?,
            "bf16": product_speed(|a, b| a.f_matmul(b), Kind::BFloat16)?,
            "int8": product_speed(|a, b| a.f_internal_int_mm(b), Kind::Int8)?,
        },
    });
    println!("{report}");
    Ok(())
}

/// Bytes a second that all threads together read.
fn read_speed(threads: usize) -> f64 {
    let words: Vec<u64> = (0..WORDS as u64).collect();
    let seconds = best(|| {
        thread::scope(|scope| {
            for part in words.chunks(WORDS.div_ceil(threads)) {
                scope.spawn(|| black_box(sum(part)));
            }
        });
    });
    (WORDS * size_of::<u64>()) as f64 / seconds
}

fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; LANES];
    for chunk in words.as_chunks::<LANES>().0 {
        lanes.iter_mut().zip(chunk).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().fold(0, |total, lane| total.wrapping_add(*lane))
}

/// Operations a second of a square product.
fn product_speed(
    product: impl Fn(&Tensor, &Tensor) -> Result<Tensor, TchError>,
    kind: Kind,
) -> Result<f64, TchError> {
    let square = || Tensor::f_randint(100, [SIDE, SIDE], (Kind::Float, Device::Cpu))?.f_to_kind(kind);
    let (left, right) = (square()?, square()?);
    // The first prepares what the others use.
    drop(product(&left, &right)?);
    let seconds = best(|| drop(black_box(product(&left, &right))));
    Ok(2.0 * (SIDE as f64).powi(3) / seconds)
}

fn best(mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    (0..TIMES).map(time).min().unwrap_or(Duration::MAX).as_secs_f64()
}
