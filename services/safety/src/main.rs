//! The safety filter: text in, verdict and cleared text out.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_runtime::main("safety", weft_safety::start)
}
