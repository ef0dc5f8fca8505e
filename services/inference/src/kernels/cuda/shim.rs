//! What libtorch has and tch does not bind (`shim.cpp`).

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

use super::GpuError;

/// A `torch::Tensor`, as tch hands it out.
type Handle = *const c_void;

unsafe extern "C" {
    fn weft_enter_stream(device: c_int, id: i64) -> *mut c_char;
    fn weft_flash_attention(
        queries: Handle,
        keys: Handle,
        values: Handle,
        row_ends: Handle,
        key_ends: Handle,
        most_rows: i64,
        most_keys: i64,
        scale: f64,
        output: *mut *mut c_void,
    ) -> *mut c_char;
    fn weft_free_text(text: *mut c_char);
}

/// Makes a stream the current one of this thread, for libtorch.
pub(super) fn enter_stream(device: usize, id: i64) -> Result<(), GpuError> {
    // SAFETY: takes plain numbers; a device that is not there is an error.
    answer(unsafe { weft_enter_stream(index(device)?, id) })
}

fn index(device: usize) -> Result<c_int, GpuError> {
    c_int::try_from(device).map_err(|error| GpuError::Torch(error.to_string()))
}

/// Sequences of unequal length, one after another.
#[derive(Debug)]
pub(crate) struct Ragged<'a> {
    /// `[sequences + 1]` i32: where each sequence's rows end, after a 0.
    pub(crate) row_ends: &'a Tensor,
    /// `[sequences + 1]` i32: where each sequence's keys end, after a 0.
    pub(crate) key_ends: &'a Tensor,
    /// Rows of the sequence that has most.
    pub(crate) most_rows: usize,
    /// Keys of the sequence that has most.
    pub(crate) most_keys: usize,
}

/// Causal attention of several sequences by libtorch's flash attention (Dao 2023, arXiv 2307.08691): the last rows of each
/// look at all of its keys. `queries` is `[rows, heads, head_dim]`, `keys` and `values` are `[keys, kv_heads, head_dim]`, and
/// so is the answer like `queries`.
///
/// # Errors
/// libtorch's.
pub(crate) fn flash_attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ragged: &Ragged<'_>,
    scale: f32,
) -> Result<Tensor, GpuError> {
    let mut output = std::ptr::null_mut();
    let handle = |tensor: &Tensor| tensor.as_ptr().cast::<c_void>();
    // SAFETY: the handles are of living tensors; `output` outlives the call, which writes it where it answers no error.
    answer(unsafe {
        weft_flash_attention(
            handle(queries),
            handle(keys),
            handle(values),
            handle(ragged.row_ends),
            handle(ragged.key_ends),
            ragged.most_rows as i64,
            ragged.most_keys as i64,
            f64::from(scale),
            &raw mut output,
        )
    })?;
    // SAFETY: the shim made it with `new`, as tch does, and keeps no other handle.
    Ok(unsafe { Tensor::from_ptr(output.cast()) })
}

/// The error that the shim answered, if it did.
fn answer(text: *mut c_char) -> Result<(), GpuError> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: the shim answers text that ends with a zero, and waits for it to be given back once.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: as above.
    unsafe { weft_free_text(text) };
    // What follows is libtorch's own stack.
    Err(GpuError::Torch(owned.lines().next().unwrap_or_default().to_owned()))
}
