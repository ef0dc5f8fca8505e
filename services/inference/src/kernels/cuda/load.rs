//! libtorch's CUDA half.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Loads `libtorch_cuda.so` from where this program finds libtorch, so that its operators register themselves.
///
/// # Errors
/// It is not there, or something that it needs is not.
pub(crate) fn load_libtorch_cuda() -> Result<(), libloading::Error> {
    // SAFETY: the library's initializers only register operators; it is built to be loaded beside libtorch_cpu.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }?;
    // Registered operators point into it: it stays for the life of the process.
    std::mem::forget(library);
    Ok(())
}
