//! What this machine allows, and what our products make of it with the shapes of SmolLM2-135M's layers, for `tests/bench`:
//!
//! ```text
//! cargo run --release -p weft-inference --example roofline -- [THREADS]
//! ```
//!
//! One line of JSON: bytes that all threads read a second, operations a second (two for each multiply-add) on operands in
//! registers by type of weights, and products by format and rows. Each figure is the fastest of a few runs.
#![expect(clippy::print_stdout, reason = "a program reads it")]

use std::error::Error;

use weft_inference::roofline::{Arithmetic, Format, Roofline};

/// Inputs and outputs of one layer's matrices.
const SHAPES: [(usize, usize); 4] = [(576, 960), (576, 576), (576, 3072), (1536, 576)];
/// A decode step alone, of few and of many streams, and a chunk of a prompt.
const ROWS: [usize; 5] = [1, 2, 8, 32, 512];

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(0), |threads| threads.parse())?;
    let mut roofline = Roofline::new(threads)?;
    let mut products = Vec::new();
    for (name, format) in [("bf16", Format::Bf16), ("int8", Format::Int8), ("int4-g32", Format::Int4(32))] {
        for rows in ROWS {
            let speed = roofline.products(format, rows, &SHAPES)?;
            products.push(serde_json::json!({
                "format": name,
                "rows": rows,
                "layer_ms": 1e3 * speed.seconds,
                "per_s": speed.operations,
                "bytes_per_s": speed.bytes,
            }));
        }
    }
    let report = serde_json::json!({
        "threads": roofline.threads(),
        "read_bytes_per_s": roofline.read_bandwidth()?,
        "peak_per_s": {
            "bf16": roofline.peak(Arithmetic::Bf16),
            "int8": roofline.peak(Arithmetic::Int8),
        },
        "products": products,
    });
    println!("{report}");
    Ok(())
}
