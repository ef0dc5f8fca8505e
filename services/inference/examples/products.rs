//! The roofline of this machine, and how near our products come to it with the shapes of SmolLM2-135M's layers:
//!
//! ```text
//! cargo run --release -p weft-inference --example products -- [threads]
//! ```
//!
//! Memory and arithmetic are measured in the same run as the products; each figure is the fastest of a few runs.

use std::{
    error::Error,
    io::{self, Write},
};

use weft_inference::roofline::{Arithmetic, Format, Roofline};

/// Inputs and outputs of one layer's matrices.
const SHAPES: [(usize, usize); 4] = [(576, 960), (576, 576), (576, 3072), (1536, 576)];

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(0), |threads| threads.parse())?;
    let mut roofline = Roofline::new(threads)?;
    let mut out = io::stdout().lock();
    let bandwidth = roofline.read_bandwidth()?;
    let peaks =
        [Arithmetic::Bf16, Arithmetic::Int8].map(|arithmetic| (arithmetic, roofline.peak(arithmetic)));
    writeln!(out, "memory {:.1} GB/s", bandwidth / 1e9)?;
    for (arithmetic, peak) in peaks {
        writeln!(out, "{arithmetic:?} {:.0} GOPS", peak / 1e9)?;
    }
    for format in [Format::Bf16, Format::Int8, Format::Int4(32), Format::Int4(64), Format::Int4(128)] {
        let peak = peaks.iter().find(|(arithmetic, _)| *arithmetic == format.arithmetic());
        let peak = peak.map_or(f64::NAN, |(_, peak)| *peak);
        for rows in [1, 8, 32, 512] {
            let speed = roofline.products(format, rows, &SHAPES)?;
            writeln!(
                out,
                "{:<10} {rows:>3} rows: {:>7.3} ms a layer {:>6.0} GOPS ({:>3.0} %) {:>6.1} GB/s ({:>3.0} %)",
                format!("{format:?}"),
                1e3 * speed.seconds,
                speed.operations / 1e9,
                100.0 * speed.operations / peak,
                speed.bytes / 1e9,
                100.0 * speed.bytes / bandwidth,
            )?;
        }
    }
    Ok(())
}
