//! Our kernels as safe functions over tensors: every length is checked before a pointer is formed. What cannot be checked
//! here are values on the device: ids, slots and blocks. They come from a batch that was checked before it was uploaded.

use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg, sys::CUdeviceptr};
use tch::{Device, Kind, Tensor};

use super::{Gpu, GpuError};

/// Threads of a block where nothing says otherwise.
const THREADS: u32 = 256;

/// As in `step.cu`.
const ATTEND_THREADS: u32 = 128;

/// Heads that one block of `enter` works on.
const ENTER_HEADS: u32 = 4;

/// What `enter` takes beside the rows.
#[derive(Debug)]
pub(crate) struct Enter<'a> {
    /// `[rows]` i32: where each row's keys and values go; negative for rows that are in no sequence.
    pub(crate) slots: &'a Tensor,
    /// `[rows, head_dim / 2]` f32.
    pub(crate) cosines: &'a Tensor,
    /// `[rows, head_dim / 2]` f32.
    pub(crate) sines: &'a Tensor,
    /// `[head_dim]` each: weights of the norms of a query and a key, and their epsilon.
    pub(crate) norms: Option<(&'a Tensor, &'a Tensor, f32)>,
}

/// What `attend` takes beside the rows and the cache.
#[derive(Debug)]
pub(crate) struct Attend<'a> {
    /// `[queries]` i32: which rows attend.
    pub(crate) rows: &'a Tensor,
    /// `[queries]` i32: how many positions each looks at.
    pub(crate) contexts: &'a Tensor,
    /// `[queries]` i32: whose block table each looks in.
    pub(crate) owners: &'a Tensor,
    /// `[owners, blocks]` i32.
    pub(crate) tables: &'a Tensor,
    /// Positions of a block.
    pub(crate) block_size: usize,
    /// Where the work is cut into shares.
    pub(crate) shares: Option<&'a Shares>,
}

/// Room for the shares of some rows' attention.
#[derive(Debug)]
pub(crate) struct Shares {
    /// `[queries, heads, shares, head_dim + 2]` f32
    partial: Tensor,
    /// `[queries, groups of heads]` i32: how many shares are there; 0 between steps.
    arrived: Tensor,
}

impl Gpu {
    /// `out[row] = table[ids[row]]`.
    pub(crate) fn embed(&self, out: &Tensor, table: &Tensor, ids: &Tensor) -> Result<(), GpuError> {
        let [rows, width] = sizes(out)?;
        let [entries, _] = sizes(table)?;
        let function = &self.functions.embed;
        let arguments = [
            Argument::Pointer(self.scalars("the output", out, &[rows, width])?),
            Argument::Pointer(self.scalars("the table", table, &[entries, width])?),
            Argument::Pointer(self.integers("the ids", ids, &[rows])?),
            Argument::Length(width),
        ];
        self.launch(function, (rows, 1, 1), (THREADS, 1), &arguments)
    }

    /// RMS norm of each row.
    pub(crate) fn rms_norm(
        &self,
        out: &Tensor,
        rows: &Tensor,
        weight: &Tensor,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        let [count, width] = sizes(rows)?;
        let arguments = [
            Argument::Pointer(self.scalars("the output", out, &[count, width])?),
            Argument::Pointer(self.scalars("the rows", rows, &[count, width])?),
            Argument::Pointer(self.scalars("the weight", weight, &[width])?),
            Argument::Length(width),
            Argument::Real(epsilon),
        ];
        self.launch(&self.functions.rms_norm, (count, 1, 1), (THREADS, 1), &arguments)
    }

    /// `silu(gate) * up` of rows `[gate, up]`.
    pub(crate) fn swiglu(&self, out: &Tensor, gate_up: &Tensor) -> Result<(), GpuError> {
        let [count, width] = sizes(out)?;
        let arguments = [
            Argument::Pointer(self.scalars("the output", out, &[count, width])?),
            Argument::Pointer(self.scalars("the rows", gate_up, &[count, 2 * width])?),
            Argument::Length(width),
            Argument::Length(count),
        ];
        let blocks = (count * width).div_ceil(THREADS as usize);
        self.launch(&self.functions.swiglu, (blocks, 1, 1), (THREADS, 1), &arguments)
    }

    /// Norms and rotates the queries of rows `[queries, keys, values]` in place, and writes keys and values to the cache,
    /// `[slots, kv_heads, head_dim]` each.
    pub(crate) fn enter(
        &self,
        qkv: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        enter: &Enter<'_>,
    ) -> Result<(), GpuError> {
        let all = self.heads.queries + 2 * self.heads.keys;
        let (width, half) = (self.heads.width, self.heads.width / 2);
        let rows = length(qkv, 0)?;
        let (query_norm, key_norm, epsilon) = match enter.norms {
            Some((query, key, epsilon)) => {
                let of = |what, norm| self.scalars(what, norm, &[width]);
                (of("the query norm", query)?, of("the key norm", key)?, epsilon)
            }
            None => (0, 0, 0.0),
        };
        let slots = length(keys, 0)?;
        let cache = [slots, self.heads.keys, width];
        let arguments = [
            Argument::Pointer(self.scalars("the rows", qkv, &[rows, all * width])?),
            Argument::Pointer(self.integers("the slots", enter.slots, &[rows])?),
            Argument::Pointer(self.reals("the cosines", enter.cosines, &[rows, half])?),
            Argument::Pointer(self.reals("the sines", enter.sines, &[rows, half])?),
            Argument::Pointer(query_norm),
            Argument::Pointer(key_norm),
            Argument::Real(epsilon),
            Argument::Pointer(self.scalars("the keys", keys, &cache)?),
            Argument::Pointer(self.scalars("the values", values, &cache)?),
            Argument::Length(self.heads.queries),
            Argument::Length(self.heads.keys),
        ];
        let blocks = all.div_ceil(ENTER_HEADS as usize);
        self.launch(&self.functions.enter, (rows, blocks, 1), (32, ENTER_HEADS), &arguments)
    }

    /// Room for the shares that the positions of `queries` rows are best cut into, to keep the whole chip busy; nothing
    /// where there are rows enough.
    pub(crate) fn shares(&self, queries: usize) -> Result<Option<Shares>, GpuError> {
        const MOST: usize = 32;
        let groups = self.heads.queries / self.together;
        let shares = (2 * self.multiprocessors / (queries * groups).max(1)).clamp(1, MOST);
        if shares == 1 {
            return Ok(None);
        }
        let size = [queries, self.heads.queries, shares, self.heads.width + 2].map(|length| length as i64);
        let device = Device::Cuda(self.index);
        Ok(Some(Shares {
            partial: Tensor::f_empty(size, (Kind::Float, device))?,
            arrived: Tensor::f_zeros([queries as i64, groups as i64], (Kind::Int, device))?,
        }))
    }

    /// Attention of some of the rows straight from the blocks of the cache, into the same rows of `out`.
    pub(crate) fn attend(
        &self,
        out: &Tensor,
        qkv: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        attend: &Attend<'_>,
    ) -> Result<(), GpuError> {
        let (heads, kv_heads, width) = (self.heads.queries, self.heads.keys, self.heads.width);
        let (rows, queries, slots) = (length(qkv, 0)?, length(attend.rows, 0)?, length(keys, 0)?);
        let [owners, table_length] = sizes(attend.tables)?;
        let groups = heads / self.together;
        let (shares, partial, arrived) = match attend.shares {
            Some(Shares { partial, arrived }) => {
                let shares = length(partial, 2)?;
                let partial = self.reals("the shares", partial, &[queries, heads, shares, width + 2])?;
                (shares, partial, self.integers("the counters", arrived, &[queries, groups])?)
            }
            None => (1, 0, 0),
        };
        let cache = [slots, kv_heads, width];
        let arguments = [
            Argument::Pointer(self.scalars("the output", out, &[rows, heads * width])?),
            Argument::Pointer(partial),
            Argument::Pointer(arrived),
            Argument::Pointer(self.scalars("the rows", qkv, &[rows, (heads + 2 * kv_heads) * width])?),
            Argument::Pointer(self.scalars("the keys", keys, &cache)?),
            Argument::Pointer(self.scalars("the values", values, &cache)?),
            Argument::Pointer(self.integers("the attending rows", attend.rows, &[queries])?),
            Argument::Pointer(self.integers("the contexts", attend.contexts, &[queries])?),
            Argument::Pointer(self.integers("the owners", attend.owners, &[queries])?),
            Argument::Pointer(self.integers("the tables", attend.tables, &[owners, table_length])?),
            Argument::Length(heads),
            Argument::Length(kv_heads),
            Argument::Length(table_length),
            Argument::Length(attend.block_size),
            // Scores are in powers of two.
            Argument::Real(std::f32::consts::LOG2_E / (width as f32).sqrt()),
        ];
        self.launch(&self.functions.attend, (queries, groups, shares), (ATTEND_THREADS, 1), &arguments)
    }

    pub(super) fn scalars(
        &self,
        what: &'static str,
        tensor: &Tensor,
        size: &[usize],
    ) -> Result<CUdeviceptr, GpuError> {
        pointer(what, tensor, self.kind, size, self.index)
    }

    pub(super) fn integers(
        &self,
        what: &'static str,
        tensor: &Tensor,
        size: &[usize],
    ) -> Result<CUdeviceptr, GpuError> {
        pointer(what, tensor, Kind::Int, size, self.index)
    }

    fn reals(&self, what: &'static str, tensor: &Tensor, size: &[usize]) -> Result<CUdeviceptr, GpuError> {
        pointer(what, tensor, Kind::Float, size, self.index)
    }

    /// Launches a kernel over blocks of `threads`; nothing where there are no blocks.
    pub(super) fn launch(
        &self,
        function: &CudaFunction,
        (x, y, z): (usize, usize, usize),
        (threads_x, threads_y): (u32, u32),
        arguments: &[Argument],
    ) -> Result<(), GpuError> {
        if x * y * z == 0 {
            return Ok(());
        }
        let mut launch = self.stream.launch_builder(function);
        let lengths: Vec<i32> = arguments.iter().map(Argument::length).collect::<Result<_, _>>()?;
        for (argument, length) in arguments.iter().zip(&lengths) {
            match argument {
                Argument::Pointer(pointer) => launch.arg(pointer),
                Argument::Real(value) => launch.arg(value),
                Argument::Length(_) => launch.arg(length),
            };
        }
        let grid_dim = (x as u32, y as u32, z as u32);
        let config = LaunchConfig { grid_dim, block_dim: (threads_x, threads_y, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are in the kernel's order and of its types; every pointer was checked against the lengths
        // that the kernel is given, and tensors are freed on the stream that this runs on, so never before it.
        unsafe { launch.launch(config) }?;
        Ok(())
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    Pointer(CUdeviceptr),
    Length(usize),
    Real(f32),
}

impl Argument {
    /// What the kernel takes for a length; 0 for other arguments.
    fn length(&self) -> Result<i32, GpuError> {
        let Self::Length(length) = self else { return Ok(0) };
        i32::try_from(*length).map_err(|_| GpuError::Unsupported(format!("a length of {length}")))
    }
}

/// Where a tensor's values are, if it is what is expected.
pub(super) fn pointer(
    what: &'static str,
    tensor: &Tensor,
    kind: Kind,
    size: &[usize],
    device: usize,
) -> Result<CUdeviceptr, GpuError> {
    let found_size: Vec<usize> = tensor.size().iter().map(|length| *length as usize).collect();
    let found = (tensor.f_kind()?, tensor.device());
    if found == (kind, Device::Cuda(device)) && found_size == size && tensor.is_contiguous() {
        return Ok(tensor.data_ptr() as CUdeviceptr);
    }
    let contiguous = if tensor.is_contiguous() { "" } else { ", not contiguous" };
    Err(GpuError::Tensor {
        what,
        found: format!("{found_size:?} of {:?} on {:?}{contiguous}", found.0, found.1),
        expected: format!("{size:?} of {kind:?} on {:?}", Device::Cuda(device)),
    })
}

pub(super) fn sizes<const N: usize>(tensor: &Tensor) -> Result<[usize; N], GpuError> {
    let sizes: Vec<usize> = tensor.size().iter().map(|length| *length as usize).collect();
    sizes.try_into().map_err(|sizes: Vec<usize>| GpuError::Tensor {
        what: "a tensor",
        found: format!("{sizes:?}"),
        expected: format!("{N} dimensions"),
    })
}

pub(super) fn length(tensor: &Tensor, dimension: usize) -> Result<usize, GpuError> {
    tensor.size().get(dimension).map(|length| *length as usize).ok_or_else(|| GpuError::Tensor {
        what: "a tensor",
        found: format!("{:?}", tensor.size()),
        expected: format!("a dimension {dimension}"),
    })
}
