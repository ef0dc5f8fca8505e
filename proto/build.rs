//! Compiles the contracts with `protox`, so that no `protoc` need be installed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 7] = [
    "weft/common/v1/chat.proto",
    "weft/common/v1/generation.proto",
    "weft/tokenizer/v1/tokenizer.proto",
    "weft/inference/v1/inference.proto",
    "weft/safety/v1/safety.proto",
    "weft/gateway/v1/gateway.proto",
    "inference/open_inference.proto",
];

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=weft");
    println!("cargo:rerun-if-changed=inference");
    let contracts = protox::compile(PROTOS, ["."])?;
    // Reflection serves these bytes. `compile_fds` runs no protoc, so nobody else would write them.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("weft.bin"), contracts.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(contracts)?;
    Ok(())
}
