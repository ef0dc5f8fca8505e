//! Compiles the C++ between us and libtorch (`src/kernels/cuda/shim.cpp`), against the headers that `torch-sys` uses.

use std::{env, path::PathBuf};

const SHIM: &str = "src/kernels/cuda/shim.cpp";

fn main() {
    println!("cargo:rerun-if-changed={SHIM}");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!(
            "cargo::error=LIBTORCH is not set: it names the folder of libtorch that `make libtorch` makes"
        );
        return;
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        // Libtorch's headers warn of themselves.
        .warnings(false)
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .file(SHIM)
        .compile("weft_shim");
    println!("cargo:rustc-link-search=native={}", libtorch.join("lib").display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
}
