//! The arithmetic of a step on a GPU, beside libtorch's matrix products.
//!
//! | module | what it holds |
//! |---|---|
//! | `load` | libtorch's CUDA half |
//! | `shim` | what libtorch has and tch does not bind: streams, flash attention over several sequences |
//! | `step.cu` | norms, rotary embedding and cache writes, attention straight from the blocks, SwiGLU |
//! | `coded.cu` | products by weights of few bits |
//! | `scalar.cu` | what both begin with |
//! | `launch` | those as safe functions over tensors |
//! | `coded` | weights of few bits on the device |
//! | `host` | copies to the device and back |
//! | `record` | a step's operations recorded once (a CUDA graph), to be launched at a stroke |
//!
//! Everything runs on one stream, libtorch's operators too: what is launched later sees what was launched before.

mod coded;
mod host;
mod launch;
mod load;
mod record;
mod shim;

use std::{cell::OnceCell, sync::Arc};

use coded::CodedFunctions;
pub(crate) use coded::{Coded, Linear};
use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaModule, CudaStream, DriverError,
        result::stream::{self, StreamKind},
        sys,
    },
    nvrtc::{self, CompileError, CompileOptions},
};
use host::Pool;
pub(crate) use launch::{Attend, Enter, Shares};
pub(crate) use load::load_libtorch_cuda;
pub(crate) use record::Recording;
pub(crate) use shim::{Ragged, flash_attention};
use tch::{Kind, TchError};

use super::Dtype;

/// Widest head: one warp holds it, eight values a lane.
const WIDEST_HEAD: usize = 256;

/// The oldest chip on which libtorch's flash attention runs, and on which there are instructions for bf16.
const FLASH: (i32, i32) = (8, 0);

/// What a model's attention looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key and value heads; divides `queries`.
    pub(crate) keys: usize,
    /// Width of a head; even.
    pub(crate) width: usize,
}

/// A failure on the GPU.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GpuError {
    /// The driver's.
    #[error("the CUDA driver: {0}")]
    Driver(#[from] DriverError),
    /// Our kernels do not compile for this model on this chip.
    #[error("NVRTC: {0:?}")]
    Compile(#[from] CompileError),
    /// A library that comes with libtorch is missing.
    #[error("NVRTC, NVIDIA's run-time compiler, is not there: libtorch for CUDA brings it (libnvrtc.so.13)")]
    NoCompiler,
    /// The model is none that our kernels were written for.
    #[error("no GPU kernels for {0}")]
    Unsupported(String),
    /// libtorch's.
    #[error("libtorch: {0}")]
    Torch(String),
    /// A tensor is not what a kernel takes.
    #[error("{what} is {found}, expected {expected}")]
    Tensor {
        /// Which one.
        what: &'static str,
        /// As it is.
        found: String,
        /// As it should be.
        expected: String,
    },
}

impl From<TchError> for GpuError {
    fn from(error: TchError) -> Self {
        Self::Torch(error.to_string())
    }
}

/// A CUDA device with kernels for one model. Belongs to one thread, whose libtorch operators run on its stream too.
#[derive(Debug)]
pub(crate) struct Gpu {
    stream: Arc<CudaStream>,
    index: usize,
    /// As libtorch names the stream: a stream that is not its own, by its handle.
    stream_id: i64,
    kind: Kind,
    heads: Heads,
    /// Query heads that one block of `attend` works on.
    together: usize,
    multiprocessors: usize,
    /// Whether libtorch's flash attention takes this type on this chip.
    flash: bool,
    functions: Functions,
    /// For weights of eight and of four bits, once there are such.
    coded: [OnceCell<CodedFunctions>; 2],
    context: Arc<CudaContext>,
    chip: (i32, i32),
    dtype: Dtype,
    /// Host memory that copies go to at full speed.
    pinned: Pool,
}

/// Our kernels, compiled.
#[derive(Debug)]
struct Functions {
    embed: CudaFunction,
    rms_norm: CudaFunction,
    swiglu: CudaFunction,
    enter: CudaFunction,
    attend: CudaFunction,
}

impl Functions {
    fn of(module: &Arc<CudaModule>) -> Result<Self, DriverError> {
        Ok(Self {
            embed: module.load_function("embed")?,
            rms_norm: module.load_function("rms_norm")?,
            swiglu: module.load_function("swiglu")?,
            enter: module.load_function("enter")?,
            attend: module.load_function("attend")?,
        })
    }
}

impl Gpu {
    /// Takes a device, gives this thread a stream there, and compiles the kernels for a model. Takes about a second.
    ///
    /// # Errors
    /// The driver, the compiler, or a model that the kernels are not for.
    pub(crate) fn new(index: usize, dtype: Dtype, heads: Heads) -> Result<Self, GpuError> {
        // SAFETY: only looks for a library.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            return Err(GpuError::NoCompiler);
        }
        let context = CudaContext::new(index)?;
        let chip = context.compute_capability()?;
        let form = Form::of(dtype, heads, chip)?;
        let module = compile(&context, chip, include_str!("step.cu"), &form.constants(dtype))?;
        let multiprocessors =
            context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        // Not one of libtorch's: it has some dozens and hands them out again, and where one model records, nobody else may
        // launch.
        context.bind_to_thread()?;
        let handle = stream::create(StreamKind::NonBlocking)?;
        // SAFETY: it was made on this device, and is never given back, since libtorch goes on naming it.
        let stream = unsafe { context.wrap_borrowed_stream(handle) };
        let stream_id = handle as i64;
        shim::enter_stream(index, stream_id)?;
        Ok(Self {
            pinned: Pool::of(&context),
            stream,
            index,
            stream_id,
            kind: match dtype {
                Dtype::F32 => Kind::Float,
                Dtype::Bf16 => Kind::BFloat16,
                Dtype::F16 => Kind::Half,
            },
            heads,
            together: form.together,
            multiprocessors: usize::try_from(multiprocessors).unwrap_or(1),
            flash: dtype != Dtype::F32 && chip >= FLASH && heads.width.is_multiple_of(8),
            functions: Functions::of(&module)?,
            coded: Default::default(),
            context,
            chip,
            dtype,
        })
    }

    /// Makes libtorch's operators on this thread run on this stream: another model may have its own.
    ///
    /// # Errors
    /// libtorch's.
    pub(crate) fn enter_stream(&self) -> Result<(), GpuError> {
        shim::enter_stream(self.index, self.stream_id)
    }

    /// Bytes of its memory: free, and in all.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok(self.context.mem_get_info()?)
    }

    /// Whether [`flash_attention`] works here.
    pub(crate) fn has_flash_attention(&self) -> bool {
        self.flash
    }
}

/// The constants that the kernels are compiled with: see `step.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    width: usize,
    group: usize,
    together: usize,
    values: usize,
    lanes: usize,
}

impl Form {
    fn of(dtype: Dtype, heads: Heads, chip: (i32, i32)) -> Result<Self, GpuError> {
        if heads.width > WIDEST_HEAD || !heads.width.is_multiple_of(2) {
            return Err(GpuError::Unsupported(format!(
                "heads of {} values, only even widths up to {WIDEST_HEAD}",
                heads.width
            )));
        }
        if dtype == Dtype::Bf16 && chip < FLASH {
            let (major, minor) = chip;
            return Err(GpuError::Unsupported(format!(
                "bf16 on a chip of compute capability {major}.{minor}"
            )));
        }
        let bytes = if dtype == Dtype::F32 { 4 } else { 2 };
        // Sixteen bytes are the widest load; a wide head of f32 takes two of them.
        let widest = (16 / bytes).max(heads.width.div_ceil(32).next_power_of_two());
        let values = widest.min(1 << heads.width.trailing_zeros());
        let lanes = heads.width.div_ceil(values).next_power_of_two();
        if lanes > 32 {
            return Err(GpuError::Unsupported(format!("heads of {} values", heads.width)));
        }
        let group = heads.queries / heads.keys;
        let together = (1..=4).rev().find(|together| group.is_multiple_of(*together)).unwrap_or(1);
        Ok(Self { width: heads.width, group, together, values, lanes })
    }

    fn constants(&self, dtype: Dtype) -> [(&'static str, usize); 6] {
        [
            scalar(dtype),
            ("HEAD_DIM", self.width),
            ("GROUP", self.group),
            ("TOGETHER", self.together),
            ("VEC", self.values),
            ("LANES", self.lanes),
        ]
    }
}

/// The constant that says of which type activations are: see `scalar.cu`.
fn scalar(dtype: Dtype) -> (&'static str, usize) {
    let number = match dtype {
        Dtype::F32 => 0,
        Dtype::Bf16 => 1,
        Dtype::F16 => 2,
    };
    ("SCALAR", number)
}

/// Compiles kernels with some constants, after what they all share.
fn compile(
    context: &Arc<CudaContext>,
    (major, minor): (i32, i32),
    source: &str,
    constants: &[(&str, usize)],
) -> Result<Arc<CudaModule>, GpuError> {
    let mut options = vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".into()];
    options.extend(constants.iter().map(|(name, value)| format!("--define-macro={name}={value}")));
    let options = CompileOptions { options, ..CompileOptions::default() };
    let source = format!("{}\n{source}", include_str!("scalar.cu"));
    Ok(context.load_module(nvrtc::compile_ptx_with_opts(source, options)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(dtype: Dtype, queries: usize, keys: usize, width: usize) -> Form {
        Form::of(dtype, Heads { queries, keys, width }, (9, 0)).unwrap()
    }

    #[test]
    fn a_head_fits_the_lanes_that_hold_it() {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            for width in [16, 32, 64, 80, 96, 128, 160, 192, 256] {
                let form = form(dtype, 8, 2, width);
                assert!(form.values * form.lanes >= width, "{form:?}");
                assert!(form.lanes <= 32 && form.lanes.is_power_of_two(), "{form:?}");
                assert_eq!(width % form.values, 0, "{form:?}");
            }
        }
    }

    #[test]
    fn heads_that_work_together_share_their_keys() {
        for (queries, keys, together) in
            [(9, 3, 3), (32, 8, 4), (4, 4, 1), (64, 8, 4), (14, 2, 1), (12, 2, 3)]
        {
            let form = form(Dtype::Bf16, queries, keys, 64);
            assert_eq!((form.group, form.together), (queries / keys, together));
        }
    }

    #[test]
    fn models_that_the_kernels_are_not_for_are_refused_by_name() {
        let refusal = |dtype, width, chip| {
            let heads = Heads { queries: 2, keys: 1, width };
            Form::of(dtype, heads, chip).unwrap_err().to_string()
        };
        assert!(refusal(Dtype::F32, 512, (9, 0)).contains("heads of 512 values"));
        assert!(refusal(Dtype::F32, 15, (9, 0)).contains("heads of 15 values"));
        assert!(refusal(Dtype::F32, 250, (9, 0)).contains("heads of 250 values"));
        assert!(refusal(Dtype::Bf16, 64, (7, 5)).contains("bf16 on a chip of compute capability 7.5"));
    }
}
