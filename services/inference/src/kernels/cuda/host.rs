//! Copies between host and device on the stream.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::{CudaContext, DriverError, result};
use tch::{Kind, Tensor};

use super::{Gpu, GpuError, launch::pointer};

/// Host memory that the device copies into by itself, at the speed of the bus. Comes from a pool, and goes back to it: to
/// lock pages takes far longer than to fill them.
pub(crate) struct Pinned {
    /// Until it goes back.
    memory: Option<Block>,
    length: usize,
    pool: Pool,
}

/// Blocks that nobody uses.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    context: Arc<CudaContext>,
    free: Arc<Mutex<Vec<Block>>>,
}

/// Locked memory.
#[derive(Debug)]
struct Block {
    start: NonNull<f32>,
    length: usize,
}

// SAFETY: the memory is the block's alone, and may be read, written and freed by any thread.
unsafe impl Send for Block {}

impl Pool {
    pub(super) fn of(context: &Arc<CudaContext>) -> Self {
        Self { context: Arc::clone(context), free: Arc::default() }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Block>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some values, each a number. Blocks that are too short are given up for one that is not.
    fn take(&self, length: usize) -> Result<Pinned, DriverError> {
        let fits = self.free().pop().filter(|block| block.length >= length);
        let memory = fits.map_or_else(|| Block::new(&self.context, length), Ok)?;
        Ok(Pinned { memory: Some(memory), length, pool: self.clone() })
    }
}

impl Block {
    fn new(context: &CudaContext, length: usize) -> Result<Self, DriverError> {
        let length = length.max(1).next_power_of_two();
        context.bind_to_thread()?;
        // SAFETY: the memory is freed by `drop`, once.
        let start = unsafe { result::malloc_host(length * size_of::<f32>(), 0) }?;
        let start: NonNull<f32> = NonNull::new(start.cast())
            .ok_or(DriverError(cudarc::driver::sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY))?;
        // SAFETY: it holds so many values; zeros are numbers.
        unsafe { start.write_bytes(0, length) };
        Ok(Self { start, length })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host`. That it fails at the end of the process harms nobody.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

impl Deref for Pinned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let Some(memory) = &self.memory else { return &[] };
        // SAFETY: the block holds as many values, all written, and lives as long as this.
        unsafe { std::slice::from_raw_parts(memory.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [f32] {
        let Some(memory) = &mut self.memory else { return &mut [] };
        // SAFETY: as above, and nobody else has the block.
        unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr(), self.length) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pool.free().extend(self.memory.take());
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pinned({})", self.length)
    }
}

impl Gpu {
    /// Copies integers to a tensor of as many, whole.
    ///
    /// # Errors
    /// The tensor is another, or the driver fails.
    pub(crate) fn upload(&self, values: &[i32], to: &Tensor) -> Result<(), GpuError> {
        let to = pointer("the copy's target", to, Kind::Int, &[values.len()], self.index)?;
        // SAFETY: the target holds as many values; pageable memory has been read when the call returns.
        Ok(unsafe { result::memcpy_htod_async(to, values, self.stream.cu_stream()) }?)
    }

    /// All values of an f32 tensor, once everything launched so far is done.
    ///
    /// # Errors
    /// The tensor is another, there is no memory, or something failed on the device.
    pub(crate) fn download(&self, from: &Tensor) -> Result<Pinned, GpuError> {
        let count = from.numel();
        let mut values = self.pinned.take(count)?;
        let from = pointer("the copy's source", &from.f_view(-1)?, Kind::Float, &[count], self.index)?;
        // SAFETY: the source holds as many values, and the target lives until the stream has been waited for.
        unsafe { result::memcpy_dtoh_async(&mut values, from, self.stream.cu_stream()) }?;
        self.stream.synchronize()?;
        Ok(values)
    }
}
