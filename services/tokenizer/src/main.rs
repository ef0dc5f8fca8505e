//! The tokenizer: text to token ids, and token ids back to text.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_runtime::main("tokenizer", weft_tokenizer::start)
}
