//! Our kernels, on the CPU: activations in f32, weights and cache in the model's type.

use std::{cell::RefCell, rc::Rc};

use half::{bf16, f16};
use tch::{Kind, Tensor};
use weft_weights::{Codes, QuantizedMatrix};

use super::{Adapted, Backend, Shape, lowrank::ForKernels, step};
use crate::{
    kernels::{
        self, Arena, CacheType, Cpu, Dtype, Geometry, HeadNorms, Isa, Layer, LayerCache, LowRank, Matrix,
        MatrixError, Mode, Plan, Sequence, Weights,
    },
    model::{
        Batch, ModelError, Values,
        torch::{CacheChoice, LoadError, rope::Rotations, weights::Weight},
    },
};

/// Computes with our kernels.
#[derive(Debug)]
pub(in crate::model::torch) struct Kernels {
    cpu: Cpu,
    dtype: Dtype,
    cache: CacheType,
    weights: Arena,
    /// Rows of earlier operations, to be used again.
    spare: Spare,
}

type Spare = Rc<RefCell<Vec<Vec<f32>>>>;

/// Activations, `[rows, width]`.
#[derive(Debug)]
pub(in crate::model::torch) struct Rows {
    /// Often longer than needed: it was used before, and growing it again would cost zeroing.
    buffer: Vec<f32>,
    count: usize,
    width: usize,
    spare: Spare,
}

impl Rows {
    fn values(&self) -> &[f32] {
        &self.buffer[..self.count * self.width]
    }

    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.count * self.width]
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            self.spare.borrow_mut().push(buffer);
        }
    }
}

/// An RMS norm.
#[derive(Debug)]
pub(in crate::model::torch) struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Kernels {
    /// With some instructions of this machine and `threads` threads.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(in crate::model::torch) fn new(
        isa: Isa,
        kind: Kind,
        cache: CacheChoice,
        threads: usize,
    ) -> std::io::Result<Self> {
        let dtype = match kind {
            Kind::BFloat16 => Dtype::Bf16,
            Kind::Half => Dtype::F16,
            _ => Dtype::F32,
        };
        let cache = match cache {
            CacheChoice::AsWeights => CacheType::Float(dtype),
            CacheChoice::Int8 => CacheType::Int8,
        };
        Ok(Self {
            cpu: Cpu::new(isa, threads)?,
            dtype,
            cache,
            weights: Arena::default(),
            spare: Spare::default(),
        })
    }

    /// Rows whose content is arbitrary.
    fn rows(&self, count: usize, width: usize) -> Rows {
        let mut buffer = self.spare.borrow_mut().pop().unwrap_or_default();
        if buffer.len() < count * width {
            buffer.resize(count * width, 0.0);
        }
        Rows { buffer, count, width, spare: Rc::clone(&self.spare) }
    }

    fn plain_matrix(&mut self, weight: &Tensor, bias: Option<Vec<f32>>) -> Result<Matrix, LoadError> {
        let outputs = weight.size().first().map_or(0, |outputs| *outputs as usize);
        let arena = &mut self.weights;
        let matrix = match self.dtype {
            Dtype::F32 => Matrix::new(Weights::F32(&elements(weight)?), outputs, bias, arena),
            Dtype::Bf16 => {
                let values: Vec<bf16> = bits(weight)?.map(bf16::from_bits).collect();
                Matrix::new(Weights::Bf16(&values), outputs, bias, arena)
            }
            Dtype::F16 => {
                let values: Vec<f16> = bits(weight)?.map(f16::from_bits).collect();
                Matrix::new(Weights::F16(&values), outputs, bias, arena)
            }
        };
        matrix.map_err(refused)
    }

    fn geometry(shape: &Shape) -> Geometry {
        Geometry {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            blocks: shape.blocks,
            block_size: shape.block_size,
        }
    }
}

fn quantized_matrix(
    matrix: &QuantizedMatrix,
    bias: Option<Vec<f32>>,
    arena: &mut Arena,
) -> Result<Matrix, LoadError> {
    let widened = |values: &[f16]| values.iter().map(|value| value.to_f32()).collect::<Vec<f32>>();
    let matrix = match &matrix.codes {
        Codes::Int8 { values, scales } => {
            Matrix::new(Weights::Int8 { values, scales }, matrix.outputs, bias, arena)
        }
        Codes::Int4 { codes, scales, mins, group } => {
            let (scales, mins, group) = (&widened(scales), &widened(mins), group.size());
            Matrix::new(Weights::Int4 { codes, scales, mins, group }, matrix.outputs, bias, arena)
        }
    };
    matrix.map_err(refused)
}

/// All values of a tensor.
fn elements<T: tch::kind::Element + Default + Clone>(tensor: &Tensor) -> Result<Vec<T>, LoadError> {
    let mut values = vec![T::default(); tensor.numel()];
    tensor.f_contiguous()?.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

/// The bits of all values of a tensor of 16-bit floats. (tch takes bf16 for f16.)
fn bits(tensor: &Tensor) -> Result<impl Iterator<Item = u16>, LoadError> {
    let values: Vec<i16> = elements(&tensor.f_view_dtype(Kind::Int16)?)?;
    Ok(values.into_iter().map(i16::cast_unsigned))
}

fn widened(tensor: &Tensor) -> Result<Vec<f32>, LoadError> {
    elements(&tensor.f_to_kind(Kind::Float)?)
}

fn refused(error: MatrixError) -> LoadError {
    match error {
        MatrixError::Memory(memory) => LoadError::Memory { bytes: memory.bytes },
        other => LoadError::Weights { reason: other.to_string() },
    }
}

impl Backend for Kernels {
    type Rows = Rows;
    type Matrix = Matrix;
    type Norm = Norm;
    type HeadNorms = HeadNorms;
    type Cache = LayerCache;
    type LowRank = LowRank;
    type Maker = ForKernels;
    type Plan<'a> = Plan<'a>;

    fn matrix(&mut self, weight: Weight, bias: Option<&Tensor>) -> Result<Matrix, LoadError> {
        let bias = bias.map(widened).transpose()?;
        match weight {
            Weight::Plain(tensor) => self.plain_matrix(&tensor, bias),
            Weight::Quantized(matrix) => quantized_matrix(&matrix, bias, &mut self.weights),
        }
    }

    fn norm_weight(&self, weight: &Tensor, epsilon: f32) -> Result<Norm, LoadError> {
        Ok(Norm { weight: widened(weight)?, epsilon })
    }

    fn head_norms(&self, query: &Tensor, key: &Tensor, epsilon: f32) -> Result<HeadNorms, LoadError> {
        Ok(HeadNorms { query: widened(query)?, key: widened(key)?, epsilon })
    }

    fn low_rank_maker(&self) -> ForKernels {
        ForKernels { dtype: self.dtype }
    }

    fn kv_bytes(&self, shape: &Shape) -> usize {
        Self::geometry(shape).token_bytes(self.cache)
    }

    fn cache(&mut self, shape: &Shape) -> Result<LayerCache, ModelError> {
        LayerCache::new(Self::geometry(shape), self.cache).map_err(step)
    }

    fn plan<'a>(
        &self,
        shape: &Shape,
        batch: &'a Batch,
        rotations: Rotations,
    ) -> Result<Plan<'a>, ModelError> {
        let sequences = batch.sequences.iter();
        let sequences =
            sequences.map(|sequence| Sequence { rows: sequence.rows.clone(), blocks: &sequence.blocks });
        let rotations = (rotations.cos, rotations.sin);
        Plan::new(Self::geometry(shape), &batch.positions, sequences.collect(), rotations).map_err(step)
    }

    fn embed(&mut self, table: &Matrix, ids: &[u32], _plan: &Plan<'_>) -> Result<Rows, ModelError> {
        let mut rows = self.rows(ids.len(), table.inputs());
        for (row, id) in rows.values_mut().chunks_exact_mut(table.inputs()).zip(ids) {
            table.copy_row(*id as usize, row);
        }
        Ok(rows)
    }

    fn norm(&mut self, rows: &Rows, norm: &Norm) -> Result<Rows, ModelError> {
        let mut output = self.rows(rows.count, rows.width);
        self.cpu.rms_norm(rows.values(), &norm.weight, norm.epsilon, output.values_mut());
        Ok(output)
    }

    fn product(&mut self, rows: &Rows, matrix: &Matrix) -> Result<Rows, ModelError> {
        let mut output = self.rows(rows.count, matrix.outputs());
        self.cpu.product(rows.values(), matrix, output.values_mut(), Mode::Store);
        Ok(output)
    }

    fn add_product(&mut self, sum: &mut Rows, rows: &Rows, matrix: &Matrix) -> Result<(), ModelError> {
        self.cpu.product(rows.values(), matrix, sum.values_mut(), Mode::Add);
        Ok(())
    }

    fn add_low_rank(
        &mut self,
        sum: &mut Rows,
        rows: &Rows,
        adapted: &[Adapted<'_, LowRank>],
    ) -> Result<(), ModelError> {
        let each = adapted.iter();
        let adapted: Vec<_> =
            each.map(|one| kernels::Adapted { rows: one.rows, low_rank: one.low_rank }).collect();
        let outputs = sum.width;
        self.cpu.add_low_rank(rows.values(), sum.values_mut(), outputs, &adapted);
        Ok(())
    }

    fn swiglu(&mut self, gate_up: &Rows) -> Result<Rows, ModelError> {
        let mut output = self.rows(gate_up.count, gate_up.width / 2);
        self.cpu.swiglu(gate_up.values(), gate_up.width / 2, output.values_mut());
        Ok(output)
    }

    fn attention(
        &mut self,
        mut qkv: Rows,
        norms: Option<&HeadNorms>,
        cache: &mut LayerCache,
        plan: &Plan<'_>,
    ) -> Result<Rows, ModelError> {
        let mut output = self.rows(qkv.count, plan.output_width());
        self.cpu.attention(qkv.values_mut(), Layer { norms, cache }, plan, output.values_mut());
        Ok(output)
    }

    fn select(&mut self, rows: &Rows, indices: &[usize]) -> Result<Rows, ModelError> {
        let mut output = self.rows(indices.len(), rows.width);
        for (to, index) in output.values_mut().chunks_exact_mut(rows.width).zip(indices) {
            to.copy_from_slice(&rows.values()[index * rows.width..][..rows.width]);
        }
        Ok(output)
    }

    fn values(&self, mut rows: Rows) -> Result<Values, ModelError> {
        let mut values = std::mem::take(&mut rows.buffer);
        values.truncate(rows.count * rows.width);
        Ok(values.into())
    }
}
