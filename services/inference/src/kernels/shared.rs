//! A pointer that the threads of one kernel call share.

/// The start of a buffer into which several threads write, each its own elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedMut<T>(*mut T);

// SAFETY: it only carries the address; who uses it promises to touch disjoint elements while the buffer is borrowed.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    /// The start of `buffer`, which stays mutably borrowed by the caller while threads use it.
    pub(super) fn new(buffer: &mut [T]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// The element at `index`.
    ///
    /// # Safety
    /// `index` is within the buffer.
    #[inline(always)]
    pub(super) unsafe fn at(self, index: usize) -> *mut T {
        // SAFETY: within the buffer, by the caller's promise.
        unsafe { self.0.add(index) }
    }
}
