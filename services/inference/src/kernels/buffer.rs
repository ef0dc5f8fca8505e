//! Memory outside the heap, which the system zeroes when it is first touched.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use half::{bf16, f16};
use memmap2::{MmapOptions, MmapRaw};

use super::{factor::Widened, lanes::Pair};

/// The system has no such amount of memory to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for {bytes} bytes")]
pub(crate) struct OutOfMemory {
    /// Bytes asked for.
    pub(crate) bytes: usize,
}

/// Types that any bytes are a value of, zeroes included.
///
/// # Safety
/// No padding, no invalid bit patterns, alignment of at most a cache line.
pub(super) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: plain bytes.
unsafe impl Plain for u8 {}
// SAFETY: plain bytes.
unsafe impl Plain for i8 {}
// SAFETY: transparent over u16.
unsafe impl Plain for bf16 {}
// SAFETY: transparent over u16.
unsafe impl Plain for f16 {}
// SAFETY: an array of the above.
unsafe impl Plain for Pair {}
// SAFETY: an `f32`.
unsafe impl Plain for Widened {}
// SAFETY: arrays of plain numbers.
unsafe impl Plain for [i8; 4] {}
// SAFETY: arrays of plain numbers.
unsafe impl Plain for [[i16; 2]; 2] {}

/// A slice, of zeroes at first.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    memory: Arc<MmapRaw>,
    /// Bytes from the start of `memory`, whole cache lines. No other buffer has any of its elements.
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Reserves room for `len` elements; memory is taken page by page as it is touched.
    pub(super) fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let memory = Arc::new(reserve(bytes::<T>(len)?)?);
        Ok(Self { memory, offset: 0, len, element: PhantomData })
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements from `offset` lie in the memory and are aligned; any bytes are a `T`; no other buffer
        // has them, so they are written only through `deref_mut`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(self.offset).cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().add(self.offset).cast(), self.len) }
    }
}

/// Buffers one after another on large pages, for what is read in order again and again: weights.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// The memory that is being handed out, and how many bytes of it have been.
    open: Option<(Arc<MmapRaw>, usize)>,
}

impl Arena {
    /// Bytes that are reserved at once.
    const CHUNK: usize = 256 << 20;

    /// Buffers begin on a cache line.
    const LINE: usize = 64;

    /// The next `len` elements.
    pub(super) fn zeroed<T: Plain>(&mut self, len: usize) -> Result<Buffer<T>, OutOfMemory> {
        let bytes = bytes::<T>(len)?.next_multiple_of(Self::LINE);
        let (memory, offset) = match self.open.take() {
            Some((memory, used)) if bytes <= memory.len() - used => (memory, used),
            _ => (Arc::new(reserve_large(bytes.max(Self::CHUNK))?), 0),
        };
        self.open = Some((Arc::clone(&memory), offset + bytes));
        Ok(Buffer { memory, offset, len, element: PhantomData })
    }
}

fn bytes<T>(len: usize) -> Result<usize, OutOfMemory> {
    len.checked_mul(size_of::<T>()).ok_or(OutOfMemory { bytes: usize::MAX })
}

fn reserve(bytes: usize) -> Result<MmapRaw, OutOfMemory> {
    let map = MmapOptions::new().len(bytes.max(1)).map_anon();
    map.map(MmapRaw::from).map_err(|_| OutOfMemory { bytes })
}

/// On large pages, where the system has them.
fn reserve_large(bytes: usize) -> Result<MmapRaw, OutOfMemory> {
    let memory = reserve(bytes)?;
    #[cfg(target_os = "linux")]
    if let Err(error) = memory.advise(memmap2::Advice::HugePage) {
        tracing::debug!(bytes, %error, "no large pages");
    }
    Ok(memory)
}
