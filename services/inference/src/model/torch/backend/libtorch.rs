//! libtorch's own operators, on any device: GPUs and CPUs that our kernels are not for. It is also the reference that tests
//! hold our kernels to.

use std::{ops::Range, sync::PoisonError};

use tch::{Device, Kind, TchError, Tensor};
use weft_weights::{Codes, QuantizedMatrix};

use super::{
    Adapted, Backend, Shape,
    lowrank::{Dense, ForLibtorch},
    step,
    tensors::{Cache, HeadNorms, Norm, Place},
};
use crate::model::{
    Batch, ModelError, Values,
    torch::{LoadError, device, rope::Rotations, weights::Weight},
};

/// Computes with libtorch's operators.
#[derive(Debug)]
pub(in crate::model::torch) struct Libtorch {
    place: Place,
}

/// A linear layer.
#[derive(Debug)]
pub(in crate::model::torch) struct Matrix {
    /// In the model's type; bytes where there are scales.
    weight: Tensor,
    /// `[outputs]`, in the model's type: of int8 weights.
    scales: Option<Tensor>,
    bias: Option<Tensor>,
}

/// A step: where its rows go, and who looks at what.
#[derive(Debug)]
pub(in crate::model::torch) struct Plan {
    shape: Shape,
    /// `[rows]`: index of each row's slot.
    slots: Tensor,
    /// `[rows, 1, head_dim]`
    cos: Tensor,
    /// `[rows, 1, head_dim]`
    sin: Tensor,
    views: Vec<View>,
}

/// One sequence, or the single rows of several side by side.
#[derive(Debug)]
struct View {
    /// Which rows of the step: `[sequences * rows]`.
    rows: Tensor,
    sequences: i64,
    /// `[sequences * context]`: slots to read; short contexts are filled up.
    slots: Tensor,
    /// `[sequences, 1, rows, context]`: what each row may see.
    mask: Tensor,
}

impl Matrix {
    /// `rows * weight^T + bias`
    fn multiply(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        let Some(scales) = &self.scales else { return rows.f_linear(&self.weight, self.bias.as_ref()) };
        let product = rows.f_internal_weight_int8pack_mm(&self.weight, scales)?;
        self.bias.as_ref().map_or(Ok(product.shallow_clone()), |bias| product.f_add(bias))
    }

    /// The weights of some outputs.
    fn rows(&self, outputs: &Tensor) -> Result<Tensor, TchError> {
        let rows = self.weight.f_index_select(0, outputs)?;
        let Some(scales) = &self.scales else { return Ok(rows) };
        rows.f_to_kind(scales.f_kind()?)?.f_mul(&scales.f_index_select(0, outputs)?.f_unsqueeze(1)?)
    }
}

impl Libtorch {
    /// On `device`, with weights and cache in `kind`.
    pub(in crate::model::torch) fn new(device: Device, kind: Kind) -> Self {
        Self { place: Place { device, kind } }
    }

    /// Codes and scales of int8 weights.
    fn int8(&self, matrix: &QuantizedMatrix) -> Result<(Tensor, Option<Tensor>), LoadError> {
        let Codes::Int8 { values, scales } = &matrix.codes else {
            return Err(LoadError::NoKernel {
                format: matrix.format(),
                device: device::name(self.place.device),
            });
        };
        let codes = Tensor::f_from_slice(values)?.f_view([matrix.outputs as i64, matrix.inputs as i64])?;
        let scales = self.place.placed(&Tensor::f_from_slice(scales)?)?;
        Ok((codes.f_to_device(self.place.device)?, Some(scales)))
    }

    fn lay_out(&self, shape: &Shape, batch: &Batch, rotations: &Rotations) -> Result<Plan, TchError> {
        let mut slots = Vec::with_capacity(batch.positions.len());
        let mut singles = Vec::new();
        let mut views = Vec::new();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let of = |position: &u32| slot(shape, &sequence.blocks, *position as usize);
            slots.extend(batch.positions[sequence.rows.clone()].iter().map(of));
            match sequence.rows.len() {
                0 => {}
                1 => singles.push(index),
                _ => views.push(self.view(shape, batch, &[index])?),
            }
        }
        if !singles.is_empty() {
            views.push(self.view(shape, batch, &singles)?);
        }
        let half = shape.head_dim as i64 / 2;
        let rotation = |values: &[f32]| {
            let half = Tensor::f_from_slice(values)?.f_view([-1, 1, half])?;
            self.place.placed(&Tensor::f_cat(&[&half, &half], -1)?)
        };
        Ok(Plan {
            shape: *shape,
            slots: self.place.integers(&slots)?,
            cos: rotation(&rotations.cos)?,
            sin: rotation(&rotations.sin)?,
            views,
        })
    }

    /// Sequences of equally many rows, side by side.
    fn view(&self, shape: &Shape, batch: &Batch, indices: &[usize]) -> Result<View, TchError> {
        let rows_of = |index: &usize| batch.sequences[*index].rows.clone();
        let last = |rows: Range<usize>| batch.positions[rows.end - 1] as usize;
        let context = indices.iter().map(|index| last(rows_of(index)) + 1).max().unwrap_or(0);
        let (mut rows, mut slots, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for index in indices {
            let blocks = &batch.sequences[*index].blocks;
            let length = last(rows_of(index)) + 1;
            slots.extend((0..context).map(|position| slot(shape, blocks, position.min(length - 1))));
            for row in rows_of(index) {
                rows.push(row as i64);
                mask.extend((0..context).map(|position| position <= batch.positions[row] as usize));
            }
        }
        let sequences = indices.len() as i64;
        let mask = Tensor::f_from_slice(&mask)?.f_view([sequences, 1, -1, context as i64])?;
        Ok(View {
            rows: self.place.integers(&rows)?,
            sequences,
            slots: self.place.integers(&slots)?,
            mask: mask.f_to_device(self.place.device)?,
        })
    }
}

/// Index of the slot at `position` of a sequence. The batch has been checked.
fn slot(shape: &Shape, blocks: &[u32], position: usize) -> i64 {
    let block = blocks[position / shape.block_size] as usize;
    (block * shape.block_size + position % shape.block_size) as i64
}

fn norm(rows: &Tensor, norm: &Norm) -> Result<Tensor, TchError> {
    let width = rows.size().last().copied().unwrap_or(0);
    rows.f_rms_norm([width], Some(&norm.weight), f64::from(norm.epsilon))
}

/// Rotates `[rows, heads, head_dim]`.
fn rotate(heads: &Tensor, plan: &Plan) -> Result<Tensor, TchError> {
    let halves = heads.f_chunk(2, -1)?;
    let turned = Tensor::f_cat(&[&halves[1].f_neg()?, &halves[0]], -1)?;
    heads.f_mul(&plan.cos)?.f_add(&turned.f_mul(&plan.sin)?)
}

fn attention(
    qkv: &Tensor,
    norms: Option<&HeadNorms>,
    cache: &mut Cache,
    plan: &Plan,
) -> Result<Tensor, TchError> {
    let (heads, kv_heads) = (plan.shape.heads as i64, plan.shape.kv_heads as i64);
    let head_dim = plan.shape.head_dim as i64;
    let parts = qkv
        .f_view([-1, heads + 2 * kv_heads, head_dim])?
        .f_split_with_sizes([heads, kv_heads, kv_heads], 1)?;
    let (mut queries, mut keys) = (parts[0].shallow_clone(), parts[1].shallow_clone());
    if let Some(norms) = norms {
        queries = norm(&queries, &norms.query)?;
        keys = norm(&keys, &norms.key)?;
    }
    let queries = rotate(&queries, plan)?;
    let _ = cache.keys.f_index_copy_(0, &plan.slots, &rotate(&keys, plan)?)?;
    let _ = cache.values.f_index_copy_(0, &plan.slots, &parts[2].f_contiguous()?)?;
    let mut output = Tensor::f_empty([qkv.size()[0], heads * head_dim], (qkv.f_kind()?, qkv.device()))?;
    for view in &plan.views {
        let read = |from: &Tensor| {
            from.f_index_select(0, &view.slots)?
                .f_view([view.sequences, -1, kv_heads, head_dim])?
                .f_transpose(1, 2)
        };
        let queries = queries.f_index_select(0, &view.rows)?;
        let queries = queries.f_view([view.sequences, -1, heads, head_dim])?.f_transpose(1, 2)?;
        let (keys, values) = (read(&cache.keys)?, read(&cache.values)?);
        let attended = Tensor::f_scaled_dot_product_attention(
            &queries,
            &keys,
            &values,
            Some(&view.mask),
            0.0,
            false,
            None,
            true,
        )?;
        let attended = attended.f_transpose(1, 2)?.f_reshape([-1, heads * head_dim])?;
        let _ = output.f_index_copy_(0, &view.rows, &attended)?;
    }
    Ok(output)
}

/// Adds what adapters make of some of the rows.
pub(super) fn add_low_rank(
    device: Device,
    sum: &mut Tensor,
    rows: &Tensor,
    adapted: &[Adapted<'_, Dense>],
) -> Result<(), TchError> {
    for Adapted { rows: indices, low_rank } in adapted {
        let factors = low_rank.0.lock().unwrap_or_else(PoisonError::into_inner);
        let indices: Vec<i64> = indices.iter().map(|index| *index as i64).collect();
        let indices = Tensor::f_from_slice(&indices)?.f_to_device(device)?;
        let small = rows.f_index_select(0, &indices)?.f_linear(&factors.down, None::<&Tensor>)?;
        let added = small.f_linear(&factors.up, None::<&Tensor>)?;
        let _ = sum.f_index_add_(0, &indices, &added)?;
    }
    Ok(())
}

impl Backend for Libtorch {
    type Rows = Tensor;
    type Matrix = Matrix;
    type Norm = Norm;
    type HeadNorms = HeadNorms;
    type Cache = Cache;
    type LowRank = Dense;
    type Maker = ForLibtorch;
    type Plan<'a> = Plan;

    fn matrix(&mut self, weight: Weight, bias: Option<&Tensor>) -> Result<Matrix, LoadError> {
        let bias = bias.map(|bias| self.place.placed(bias)).transpose()?;
        let (weight, scales) = match weight {
            Weight::Plain(tensor) => (self.place.placed(&tensor)?, None),
            Weight::Quantized(matrix) => self.int8(&matrix)?,
        };
        Ok(Matrix { weight, scales, bias })
    }

    fn norm_weight(&self, weight: &Tensor, epsilon: f32) -> Result<Norm, LoadError> {
        Ok(self.place.norm(weight, epsilon)?)
    }

    fn head_norms(&self, query: &Tensor, key: &Tensor, epsilon: f32) -> Result<HeadNorms, LoadError> {
        Ok(self.place.head_norms(query, key, epsilon)?)
    }

    fn low_rank_maker(&self) -> ForLibtorch {
        self.place.low_rank_maker()
    }

    fn kv_bytes(&self, shape: &Shape) -> usize {
        self.place.kv_bytes(shape)
    }

    fn cache(&mut self, shape: &Shape) -> Result<Cache, ModelError> {
        self.place.cache(shape)
    }

    fn plan(&self, shape: &Shape, batch: &Batch, rotations: Rotations) -> Result<Plan, ModelError> {
        self.lay_out(shape, batch, &rotations).map_err(step)
    }

    fn embed(&mut self, table: &Matrix, ids: &[u32], _plan: &Plan) -> Result<Tensor, ModelError> {
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        self.place.integers(&ids).and_then(|ids| table.rows(&ids)).map_err(step)
    }

    fn norm(&mut self, rows: &Tensor, weights: &Norm) -> Result<Tensor, ModelError> {
        norm(rows, weights).map_err(step)
    }

    fn product(&mut self, rows: &Tensor, matrix: &Matrix) -> Result<Tensor, ModelError> {
        matrix.multiply(rows).map_err(step)
    }

    fn add_product(&mut self, sum: &mut Tensor, rows: &Tensor, matrix: &Matrix) -> Result<(), ModelError> {
        let product = self.product(rows, matrix)?;
        sum.f_add_(&product).map(drop).map_err(step)
    }

    fn add_low_rank(
        &mut self,
        sum: &mut Tensor,
        rows: &Tensor,
        adapted: &[Adapted<'_, Dense>],
    ) -> Result<(), ModelError> {
        add_low_rank(self.place.device, sum, rows, adapted).map_err(step)
    }

    fn swiglu(&mut self, gate_up: &Tensor) -> Result<Tensor, ModelError> {
        let halves = gate_up.f_chunk(2, -1).map_err(step)?;
        halves[0].f_silu().and_then(|gate| gate.f_mul(&halves[1])).map_err(step)
    }

    fn attention(
        &mut self,
        qkv: Tensor,
        norms: Option<&HeadNorms>,
        cache: &mut Cache,
        plan: &Plan,
    ) -> Result<Tensor, ModelError> {
        attention(&qkv, norms, cache, plan).map_err(step)
    }

    fn select(&mut self, rows: &Tensor, indices: &[usize]) -> Result<Tensor, ModelError> {
        self.place.select(rows, indices)
    }

    fn values(&self, rows: Tensor) -> Result<Values, ModelError> {
        let rows =
            rows.f_to_kind(Kind::Float).and_then(|rows| rows.f_to_device(Device::Cpu)).map_err(step)?;
        let mut values = vec![0.0; rows.numel()];
        rows.f_contiguous().and_then(|rows| rows.f_copy_data(&mut values, rows.numel())).map_err(step)?;
        Ok(values.into())
    }
}
