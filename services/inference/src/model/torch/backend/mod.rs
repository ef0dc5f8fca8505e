//! Where a step's arithmetic happens.

mod cuda;
mod kernels;
mod libtorch;
mod lowrank;
mod tensors;

use tch::Tensor;

pub(super) use cuda::Cuda;
pub(super) use kernels::Kernels;
pub(super) use libtorch::Libtorch;
pub(super) use lowrank::{FactorTensors, LowRankMaker, Width};

use super::{LoadError, rope::Rotations, weights::Weight};
use crate::model::{Batch, DeviceMemory, ModelError, Values};

/// Shape of the cache and of what attention works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Query heads.
    pub(super) heads: usize,
    /// Key and value heads.
    pub(super) kv_heads: usize,
    /// Width of a head.
    pub(super) head_dim: usize,
    /// Blocks in the cache; 0 until there is one.
    pub(super) blocks: usize,
    /// Positions of a block.
    pub(super) block_size: usize,
}

/// How far the operations of a recorded step go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// To the last layer's end: there are prompts in it, and few of its rows want logits.
    Hidden,
    /// To the logits of all rows.
    Logits,
}

/// Some rows of a step, and what an adapter adds to them.
#[derive(Debug)]
pub(super) struct Adapted<'a, T> {
    /// Ascending; no row is in two.
    pub(super) rows: &'a [usize],
    /// What is added.
    pub(super) low_rank: &'a T,
}

/// The operations that a decoder is made of. Rows are activations, one for each token of the step.
pub(super) trait Backend {
    /// Activations, `[rows, width]`.
    type Rows;
    /// A weight matrix `[outputs, inputs]`, with its bias, in the form that products take.
    type Matrix;
    /// Weights of an RMS norm.
    type Norm;
    /// Weights of the norms of each head's query and key.
    type HeadNorms;
    /// Keys and values of one layer.
    type Cache;
    /// What an adapter adds to one matrix.
    type LowRank: Send + Sync + std::fmt::Debug + 'static;
    /// Makes that, on any thread.
    type Maker: LowRankMaker<LowRank = Self::LowRank>;
    /// What attention needs to know of a step: made once, used by every layer.
    type Plan<'a>;

    /// Prepares a weight matrix.
    fn matrix(&mut self, weight: Weight, bias: Option<&Tensor>) -> Result<Self::Matrix, LoadError>;
    /// Prepares a norm.
    fn norm_weight(&self, weight: &Tensor, epsilon: f32) -> Result<Self::Norm, LoadError>;
    /// Prepares the norms of heads.
    fn head_norms(&self, query: &Tensor, key: &Tensor, epsilon: f32) -> Result<Self::HeadNorms, LoadError>;

    /// What brings adapters into this backend's form.
    fn low_rank_maker(&self) -> Self::Maker;

    /// How much memory there is, where it is not the machine's own.
    fn device_memory(&self) -> Option<DeviceMemory> {
        None
    }
    /// Bytes of one token's keys and values in one layer.
    fn kv_bytes(&self, shape: &Shape) -> usize;
    /// Makes room for one layer's keys and values.
    fn cache(&mut self, shape: &Shape) -> Result<Self::Cache, ModelError>;
    /// Lays out a step.
    fn plan<'a>(
        &self,
        shape: &Shape,
        batch: &'a Batch,
        rotations: Rotations,
    ) -> Result<Self::Plan<'a>, ModelError>;

    /// As [`crate::model::Model::recorded_rows`].
    fn recorded_rows(&self) -> &[usize] {
        &[]
    }

    /// Lays out a step of which nothing is wanted but logits, and in which there is no adapter, to be [`Self::recorded`];
    /// nothing where the backend does not record such.
    fn recorded_plan<'a>(
        &mut self,
        _shape: &Shape,
        _batch: &'a Batch,
        _rotations: &Rotations,
        _part: Part,
    ) -> Result<Option<Self::Plan<'a>>, ModelError> {
        Ok(None)
    }

    /// Runs the operations of such a step. A backend may record them and not run them again for steps like this one: so
    /// they may depend on nothing but the plan.
    fn recorded(
        &mut self,
        _plan: &Self::Plan<'_>,
        run: &mut dyn FnMut(&mut Self) -> Result<Self::Rows, ModelError>,
    ) -> Result<Self::Rows, ModelError> {
        run(self)
    }

    /// The rows of `table` at `ids`, which are those of the step.
    fn embed(
        &mut self,
        table: &Self::Matrix,
        ids: &[u32],
        plan: &Self::Plan<'_>,
    ) -> Result<Self::Rows, ModelError>;
    /// RMS norm of each row.
    fn norm(&mut self, rows: &Self::Rows, norm: &Self::Norm) -> Result<Self::Rows, ModelError>;
    /// `rows * matrix^T + bias`.
    fn product(&mut self, rows: &Self::Rows, matrix: &Self::Matrix) -> Result<Self::Rows, ModelError>;
    /// Adds `rows * matrix^T + bias` to `sum`.
    fn add_product(
        &mut self,
        sum: &mut Self::Rows,
        rows: &Self::Rows,
        matrix: &Self::Matrix,
    ) -> Result<(), ModelError>;
    /// Adds to the rows of `sum` that have an adapter what it makes of the same rows of `rows`. Others stay as they are.
    fn add_low_rank(
        &mut self,
        sum: &mut Self::Rows,
        rows: &Self::Rows,
        adapted: &[Adapted<'_, Self::LowRank>],
    ) -> Result<(), ModelError>;
    /// `silu(gate) * up` of rows `[gate, up]`.
    fn swiglu(&mut self, gate_up: &Self::Rows) -> Result<Self::Rows, ModelError>;
    /// Rotates, writes keys and values to the cache, and attends: from rows of queries, keys and values to rows of heads.
    fn attention(
        &mut self,
        qkv: Self::Rows,
        norms: Option<&Self::HeadNorms>,
        cache: &mut Self::Cache,
        plan: &Self::Plan<'_>,
    ) -> Result<Self::Rows, ModelError>;
    /// The rows at `indices`.
    fn select(&mut self, rows: &Self::Rows, indices: &[usize]) -> Result<Self::Rows, ModelError>;
    /// All values, row after row.
    fn values(&self, rows: Self::Rows) -> Result<Values, ModelError>;
}

/// A failure of a step.
fn step(error: impl std::fmt::Display) -> ModelError {
    ModelError::Step(error.to_string())
}
