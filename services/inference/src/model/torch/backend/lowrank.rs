//! Low-rank products of adapters, made on any thread and added on the engine's.

use tch::{Device, Kind, Tensor};

use super::super::LoadError;
use crate::kernels::{Dtype, Factors, LowRank};

/// Two factors of an adapter for some outputs of a matrix.
#[derive(Debug)]
pub(in crate::model::torch) struct FactorTensors {
    /// `[rank, inputs]` in f32 on the CPU.
    pub(in crate::model::torch) down: Tensor,
    /// `[outputs, rank]` in f32 on the CPU, the adapter's scale included.
    pub(in crate::model::torch) up: Tensor,
    /// Where its outputs begin among those of the matrix.
    pub(in crate::model::torch) first_output: usize,
}

/// Width of a matrix that adapters add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model::torch) struct Width {
    /// Length of a row that goes in.
    pub(in crate::model::torch) inputs: usize,
    /// Length of a row that comes out.
    pub(in crate::model::torch) outputs: usize,
}

/// Brings an adapter's factors into the form that a backend computes with, on any thread.
pub(in crate::model::torch) trait LowRankMaker:
    Send + Sync + std::fmt::Debug + 'static
{
    /// What an adapter adds to one matrix.
    type LowRank: Send + Sync + std::fmt::Debug + 'static;

    /// From factors, at least one. Answers also the bytes that it takes.
    fn make(&self, factors: &[FactorTensors], width: Width) -> Result<(Self::LowRank, u64), LoadError>;
}

/// For our kernels.
#[derive(Debug)]
pub(in crate::model::torch) struct ForKernels {
    pub(super) dtype: Dtype,
}

impl LowRankMaker for ForKernels {
    type LowRank = LowRank;

    fn make(&self, factors: &[FactorTensors], width: Width) -> Result<(LowRank, u64), LoadError> {
        let values = |tensor: &Tensor| -> Result<Vec<f32>, LoadError> {
            let mut values = vec![0.0; tensor.numel()];
            tensor.f_contiguous()?.f_copy_data(&mut values, tensor.numel())?;
            Ok(values)
        };
        let pairs = factors.iter().map(|part| Ok((values(&part.down)?, values(&part.up)?)));
        let pairs = pairs.collect::<Result<Vec<_>, LoadError>>()?;
        let factors: Vec<Factors<'_>> = factors
            .iter()
            .zip(&pairs)
            .map(|(part, (down, up))| Factors {
                down,
                up,
                rank: down.len() / width.inputs,
                first_output: part.first_output,
            })
            .collect();
        let made = LowRank::new(&factors, width.inputs, self.dtype);
        let made = made.map_err(|error| LoadError::Memory { bytes: error.bytes })?;
        let bytes = made.bytes() as u64;
        Ok((made, bytes))
    }
}

/// For libtorch's operators.
#[derive(Debug)]
pub(in crate::model::torch) struct ForLibtorch {
    pub(super) device: Device,
    pub(super) kind: Kind,
}

/// Two dense factors. A tensor may be used by one thread at a time: hence the lock, for which nobody ever waits.
#[derive(Debug)]
pub(in crate::model::torch) struct Dense(pub(super) std::sync::Mutex<DenseFactors>);

#[derive(Debug)]
pub(super) struct DenseFactors {
    /// `[ranks, inputs]`: those of all parts one after another.
    pub(super) down: Tensor,
    /// `[outputs, ranks]`: zero where a part has no outputs.
    pub(super) up: Tensor,
}

impl LowRankMaker for ForLibtorch {
    type LowRank = Dense;

    fn make(&self, factors: &[FactorTensors], width: Width) -> Result<(Dense, u64), LoadError> {
        let placed = |tensor: Tensor| tensor.f_to_kind(self.kind)?.f_to_device(self.device);
        let down = Tensor::f_cat(&factors.iter().map(|part| &part.down).collect::<Vec<_>>(), 0)?;
        let ranks = down.size()[0];
        let up = Tensor::f_zeros([width.outputs as i64, ranks], (Kind::Float, Device::Cpu))?;
        let mut first_rank = 0;
        for part in factors {
            let (outputs, rank) = part.up.size2()?;
            let mut place =
                up.f_narrow(0, part.first_output as i64, outputs)?.f_narrow(1, first_rank, rank)?;
            place.f_copy_(&part.up)?;
            first_rank += rank;
        }
        let factors = DenseFactors { down: placed(down)?, up: placed(up)? };
        let values = factors.down.numel() + factors.up.numel();
        let bytes = (values * self.kind.elt_size_in_bytes()) as u64;
        Ok((Dense(std::sync::Mutex::new(factors)), bytes))
    }
}
