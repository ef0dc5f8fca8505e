//! The inference service.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_runtime::main("inference", weft_inference::start)
}
