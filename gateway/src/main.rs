//! The gateway: Weft's front door.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_runtime::main("gateway", weft_gateway::start)
}
