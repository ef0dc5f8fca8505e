//! On a GPU: libtorch's matrix products, our kernels for everything else, all on one stream.
//!
//! A small step is hundreds of launches of a few microseconds each, and it is the launching that takes the time. So the
//! operations of decode steps, and of short prompts, are recorded once for each number of rows (`recorded`), and launched at
//! a stroke from then on; those of long prompts are launched one by one.

mod plan;
mod recorded;

use std::{cell::RefCell, collections::HashMap, rc::Rc};

pub(in crate::model::torch) use plan::Plan;
use recorded::Step;
use tch::{Device, Kind, TchError, Tensor};

use super::{
    Adapted, Backend, Part, Shape,
    libtorch::add_low_rank,
    lowrank::{Dense, ForLibtorch},
    step,
    tensors::{Cache, HeadNorms, Norm, Place},
};
use crate::{
    kernels::{self, Coded, Dtype, Enter, Gpu, Heads, Linear, Mode, Ragged, flash_attention},
    model::{
        Batch, DeviceMemory, ModelError, Values,
        torch::{LoadError, device, rope::Rotations, weights::Weight},
    },
};

/// Computes on a GPU.
#[derive(Debug)]
pub(in crate::model::torch) struct Cuda {
    gpu: Gpu,
    place: Place,
    /// Longest sequence of the model: how long a block table can be.
    context: usize,
    /// Numbers in all of its matrices: a row is multiplied by about as many.
    weights: usize,
    /// Rows of earlier operations, while a step is recorded: its memory must be its own.
    spare: Option<Spare>,
    /// Steps that are, or will be, recorded, by their rows and how far they go.
    steps: HashMap<(usize, Part), Step>,
}

type Spare = Rc<RefCell<Vec<Tensor>>>;

/// Activations, `[rows, width]`.
#[derive(Debug)]
pub(in crate::model::torch) struct Rows {
    tensor: Tensor,
    /// Where the memory goes afterwards; to libtorch where nowhere.
    spare: Option<Spare>,
}

impl Rows {
    fn count(&self) -> usize {
        self.tensor.size()[0] as usize
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if let Some(spare) = &self.spare {
            spare.borrow_mut().push(self.tensor.shallow_clone());
        }
    }
}

/// A linear layer.
#[derive(Debug)]
pub(in crate::model::torch) struct Matrix {
    weights: Weights,
    bias: Option<Tensor>,
}

#[derive(Debug)]
enum Weights {
    /// `[outputs, inputs]`
    Plain(Tensor),
    Coded(Coded),
}

impl Matrix {
    fn outputs(&self) -> usize {
        match &self.weights {
            Weights::Plain(weight) => weight.size()[0] as usize,
            Weights::Coded(coded) => coded.outputs(),
        }
    }

    fn inputs(&self) -> usize {
        match &self.weights {
            Weights::Plain(weight) => weight.size()[1] as usize,
            Weights::Coded(coded) => coded.inputs(),
        }
    }
}

impl Cuda {
    /// On `device`, with weights and cache in `kind`, for a model whose sequences are `context` tokens at most.
    ///
    /// # Errors
    /// The device, or a model that our kernels are not for.
    pub(in crate::model::torch) fn new(
        device: Device,
        kind: Kind,
        heads: Heads,
        context: usize,
    ) -> Result<Self, LoadError> {
        let dtype = match kind {
            Kind::BFloat16 => Dtype::Bf16,
            Kind::Half => Dtype::F16,
            _ => Dtype::F32,
        };
        let index = if let Device::Cuda(index) = device { index } else { 0 };
        let gpu = Gpu::new(index, dtype, heads);
        let refused = |error: kernels::GpuError| LoadError::Device {
            device: device::name(device),
            reason: error.to_string(),
        };
        let gpu = gpu.map_err(refused)?;
        let place = Place { device, kind };
        Ok(Self { gpu, place, context, weights: 0, spare: None, steps: HashMap::new() })
    }

    /// Rows whose content is arbitrary.
    fn rows(&self, count: usize, width: usize) -> Result<Rows, ModelError> {
        let size = [count as i64, width as i64];
        let used = self.spare.as_ref().and_then(|spare| {
            let mut spare = spare.borrow_mut();
            let fits = spare.iter().position(|tensor| tensor.size() == size)?;
            Some(spare.swap_remove(fits))
        });
        let tensor = used
            .map_or_else(|| Tensor::f_empty(size, (self.place.kind, self.place.device)), Ok)
            .map_err(step)?;
        Ok(Rows { tensor, spare: self.spare.clone() })
    }

    /// Stores or adds `rows * matrix^T + bias`.
    ///
    /// libtorch's products with a bias take memory of their own for a while, which a recording must not: so it is added.
    fn multiply(&self, out: &mut Rows, rows: &Rows, matrix: &Matrix, mode: Mode) -> Result<(), ModelError> {
        let decoded;
        let weight = match &matrix.weights {
            Weights::Plain(weight) => weight,
            Weights::Coded(coded) => {
                let linear = Linear { matrix: coded, bias: matrix.bias.as_ref() };
                let product = self.gpu.product_coded(&out.tensor, &rows.tensor, &linear, mode);
                if product.map_err(step)? {
                    return Ok(());
                }
                decoded = self.rows(coded.outputs(), coded.inputs())?;
                self.gpu.decode_coded(&decoded.tensor, coded, None).map_err(step)?;
                &decoded.tensor
            }
        };
        let mut multiply = || {
            let transposed = weight.f_tr()?;
            let product = &mut out.tensor;
            let _ = if mode == Mode::Add {
                product.f_addmm_(&rows.tensor, &transposed)?
            } else {
                rows.tensor.f_mm_out(product, &transposed)?
            };
            matrix.bias.as_ref().map_or(Ok(()), |bias| product.f_add_(bias).map(drop))
        };
        multiply().map_err(step)
    }

    /// Attention of the rows of prompts, by libtorch's flash attention over keys and values gathered from the blocks.
    fn prefill(&self, qkv: &Tensor, cache: &Cache, plan: &Plan, out: &Tensor) -> Result<(), ModelError> {
        let (shape, Some(part)) = (&plan.shape, &plan.prefill) else { return Ok(()) };
        let (heads, width) = (shape.heads as i64, shape.head_dim as i64);
        let all = heads + 2 * shape.kv_heads as i64;
        let gathered = || -> Result<_, TchError> {
            let queries =
                qkv.f_view([-1, all, width])?.f_narrow(1, 0, heads)?.f_index_select(0, &part.rows)?;
            let keys = cache.keys.f_index_select(0, &part.slots)?;
            Ok((queries, keys, cache.values.f_index_select(0, &part.slots)?))
        };
        let (queries, keys, values) = gathered().map_err(step)?;
        let ragged = Ragged {
            row_ends: &part.row_ends,
            key_ends: &part.key_ends,
            most_rows: part.most_rows,
            most_keys: part.most_keys,
        };
        let scale = (shape.head_dim as f32).sqrt().recip();
        let attended = flash_attention(&queries, &keys, &values, &ragged, scale).map_err(step)?;
        let scatter = || out.f_view([-1, heads, width])?.f_index_copy_(0, &part.rows, &attended).map(drop);
        scatter().map_err(step)
    }
}

impl Backend for Cuda {
    type Rows = Rows;
    type Matrix = Matrix;
    type Norm = Norm;
    type HeadNorms = HeadNorms;
    type Cache = Cache;
    type LowRank = Dense;
    type Maker = ForLibtorch;
    type Plan<'a> = Plan;

    fn matrix(&mut self, weight: Weight, bias: Option<&Tensor>) -> Result<Matrix, LoadError> {
        let weights = match weight {
            Weight::Plain(tensor) => Weights::Plain(self.place.placed(&tensor)?),
            Weight::Quantized(matrix) => {
                let refused = |error: kernels::GpuError| LoadError::Weights { reason: error.to_string() };
                Weights::Coded(Coded::new(&matrix, &self.gpu).map_err(refused)?)
            }
        };
        let matrix = Matrix { weights, bias: bias.map(|bias| self.place.placed(bias)).transpose()? };
        self.weights += matrix.outputs() * matrix.inputs();
        Ok(matrix)
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

    fn device_memory(&self) -> Option<DeviceMemory> {
        let (free, total) = self.gpu.memory().ok()?;
        Some(DeviceMemory { free: free as u64, total: total as u64 })
    }

    fn kv_bytes(&self, shape: &Shape) -> usize {
        self.place.kv_bytes(shape)
    }

    fn cache(&mut self, shape: &Shape) -> Result<Cache, ModelError> {
        // What was recorded reads and writes the cache that was.
        self.steps.clear();
        self.gpu.enter_stream().map_err(step)?;
        self.place.cache(shape)
    }

    fn plan(&self, shape: &Shape, batch: &Batch, rotations: Rotations) -> Result<Plan, ModelError> {
        self.plan_once(shape, batch, &rotations)
    }

    fn recorded_rows(&self) -> &[usize] {
        &recorded::ROWS
    }

    fn recorded_plan(
        &mut self,
        shape: &Shape,
        batch: &Batch,
        rotations: &Rotations,
        part: Part,
    ) -> Result<Option<Plan>, ModelError> {
        self.plan_recorded((shape, batch, rotations), part)
    }

    fn recorded(
        &mut self,
        plan: &Plan,
        run: &mut dyn FnMut(&mut Self) -> Result<Rows, ModelError>,
    ) -> Result<Rows, ModelError> {
        self.run_recorded(plan, run)
    }

    fn embed(&mut self, table: &Matrix, _ids: &[u32], plan: &Plan) -> Result<Rows, ModelError> {
        let (out, ids) = (self.rows(plan.rows, table.inputs())?, &plan.inputs.ids);
        match &table.weights {
            Weights::Plain(weight) => self.gpu.embed(&out.tensor, weight, ids),
            Weights::Coded(coded) => self.gpu.decode_coded(&out.tensor, coded, Some(ids)),
        }
        .map_err(step)?;
        Ok(out)
    }

    fn norm(&mut self, rows: &Rows, norm: &Norm) -> Result<Rows, ModelError> {
        let size = rows.tensor.size();
        let out = self.rows(size[0] as usize, size[1] as usize)?;
        self.gpu.rms_norm(&out.tensor, &rows.tensor, &norm.weight, norm.epsilon).map_err(step)?;
        Ok(out)
    }

    fn product(&mut self, rows: &Rows, matrix: &Matrix) -> Result<Rows, ModelError> {
        let mut out = self.rows(rows.count(), matrix.outputs())?;
        self.multiply(&mut out, rows, matrix, Mode::Store)?;
        Ok(out)
    }

    fn add_product(&mut self, sum: &mut Rows, rows: &Rows, matrix: &Matrix) -> Result<(), ModelError> {
        self.multiply(sum, rows, matrix, Mode::Add)
    }

    fn add_low_rank(
        &mut self,
        sum: &mut Rows,
        rows: &Rows,
        adapted: &[Adapted<'_, Dense>],
    ) -> Result<(), ModelError> {
        add_low_rank(self.place.device, &mut sum.tensor, &rows.tensor, adapted).map_err(step)
    }

    fn swiglu(&mut self, gate_up: &Rows) -> Result<Rows, ModelError> {
        let size = gate_up.tensor.size();
        let out = self.rows(size[0] as usize, size[1] as usize / 2)?;
        self.gpu.swiglu(&out.tensor, &gate_up.tensor).map_err(step)?;
        Ok(out)
    }

    fn attention(
        &mut self,
        qkv: Rows,
        norms: Option<&HeadNorms>,
        cache: &mut Cache,
        plan: &Plan,
    ) -> Result<Rows, ModelError> {
        let enter = Enter {
            slots: &plan.inputs.slots,
            cosines: &plan.inputs.cosines,
            sines: &plan.inputs.sines,
            norms: norms.map(|norms| (&norms.query.weight, &norms.key.weight, norms.query.epsilon)),
        };
        self.gpu.enter(&qkv.tensor, &cache.keys, &cache.values, &enter).map_err(step)?;
        let out = self.rows(plan.rows, plan.shape.heads * plan.shape.head_dim)?;
        self.prefill(&qkv.tensor, cache, plan, &out.tensor)?;
        let caches = (&cache.keys, &cache.values);
        self.gpu.attend(&out.tensor, &qkv.tensor, caches, &plan.attend()).map_err(step)?;
        Ok(out)
    }

    fn select(&mut self, rows: &Rows, indices: &[usize]) -> Result<Rows, ModelError> {
        Ok(Rows { tensor: self.place.select(&rows.tensor, indices)?, spare: None })
    }

    fn values(&self, rows: Rows) -> Result<Values, ModelError> {
        let wide = rows.tensor.f_to_kind(Kind::Float).map_err(step)?;
        self.gpu.download(&wide).map(Values::lent).map_err(step)
    }
}
