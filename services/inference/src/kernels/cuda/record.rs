//! A step's operations, recorded once and launched at a stroke.

use std::fmt;

use cudarc::driver::{CudaGraph, sys};

use super::{Gpu, GpuError};

/// Operations on fixed memory, which whoever recorded them keeps alive (a CUDA graph).
pub(crate) struct Recording(CudaGraph);

impl fmt::Debug for Recording {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Recording")
    }
}

impl Gpu {
    /// From here on what is launched is recorded, not run, until [`Self::end_recording`].
    ///
    /// The capture is relaxed: another thread may ask for memory meanwhile, for an adapter that is loaded.
    ///
    /// # Errors
    /// What was launched before failed, or the driver cannot record.
    pub(crate) fn begin_recording(&self) -> Result<(), GpuError> {
        self.stream.synchronize()?;
        Ok(self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?)
    }

    /// What was launched since [`Self::begin_recording`]. Must be called even if some of it failed: a stream that still
    /// records can do nothing else.
    ///
    /// # Errors
    /// Something was launched that cannot be recorded.
    pub(crate) fn end_recording(&self) -> Result<Recording, GpuError> {
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0))?;
        graph.map(Recording).ok_or_else(|| GpuError::Unsupported("a step of no operations".into()))
    }
}

impl Recording {
    /// Launches everything that was recorded.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn launch(&self) -> Result<(), GpuError> {
        Ok(self.0.launch()?)
    }
}
