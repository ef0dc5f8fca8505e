//! Page-aligned memory that the system zeroes when it is first touched.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use half::{bf16, f16};
use memmap2::MmapMut;

use super::lanes::Pair;

/// The system has no such amount of memory to give.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no memory for {bytes} bytes")]
pub(crate) struct OutOfMemory {
    /// Bytes asked for.
    pub(crate) bytes: usize,
}

/// Types that any bytes are a value of, zeroes included.
///
/// # Safety
/// No padding, no invalid bit patterns, alignment of at most a page.
pub(super) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: transparent over u16.
unsafe impl Plain for bf16 {}
// SAFETY: transparent over u16.
unsafe impl Plain for f16 {}
// SAFETY: an array of the above.
unsafe impl Plain for Pair {}

/// A slice of zeroes at first, on pages of its own (and large ones where the system has them).
#[derive(Debug)]
pub(super) struct Buffer<T> {
    map: MmapMut,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Reserves room for `len` elements; memory is taken as it is touched.
    pub(super) fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(OutOfMemory { bytes: usize::MAX })?;
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|_| OutOfMemory { bytes })?;
        #[cfg(target_os = "linux")]
        if map.advise(memmap2::Advice::HugePage).is_err() {
            tracing::debug!(bytes, "no large pages for this buffer");
        }
        Ok(Self { map, len, element: PhantomData })
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the map holds `len` elements on a page boundary, and any bytes are a `T`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.len) }
    }
}
