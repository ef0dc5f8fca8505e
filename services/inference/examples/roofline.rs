//! What this machine allows, and what our products make of it with the shapes of SmolLM2-135M's layers, for `tests/bench`:
//!
//! ```text
//! cargo run --release -p weft-inference --example roofline -- [THREADS] [bandwidth]
//! ```
//!
//! One line of JSON: bytes that all threads read a second, for some milliseconds and for a second on end, operations a second
//! (two for each multiply-add) on operands in registers by type of weights, and products by format and rows. Each figure but
//! the second is the fastest of a few runs. With `bandwidth` the first two only.
#![expect(clippy::print_stdout, reason = "a program reads it")]

use std::error::Error;

use weft_inference::roofline::{Arithmetic, Format, Roofline};

/// Inputs and outputs of one layer's matrices.
const SHAPES: [(usize, usize); 4] = [(576, 960), (576, 576), (576, 3072), (1536, 576)];
/// A decode step alone, of few and of many streams, and a chunk of a prompt.
const ROWS: [usize; 5] = [1, 2, 8, 32, 512];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(0), |threads| threads.parse())?;
    let bandwidth_only = match arguments.next().as_deref() {
        None => false,
        Some("bandwidth") => true,
        Some(other) => return Err(format!("{other:?} is not \"bandwidth\"").into()),
    };
    let mut roofline = Roofline::new(threads)?;
    let read = roofline.read_bandwidth()?;
    let mut report = serde_json::json!({
        "threads": roofline.threads(),
        "read_bytes_per_s": read.fastest,
        "sustained_read_bytes_per_s": read.sustained,
    });
    if !bandwidth_only {
        report["peak_per_s"] = serde_json::json!({
            "bf16": roofline.peak(Arithmetic::Bf16),
            "int8": roofline.peak(Arithmetic::Int8),
        });
        report["products"] = products(&mut roofline)?;
    }
    println!("{report}");
    Ok(())
}

/// Products of all formats and rows.
fn products(roofline: &mut Roofline) -> Result<serde_json::Value, Box<dyn Error>> {
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
    Ok(products.into())
}
