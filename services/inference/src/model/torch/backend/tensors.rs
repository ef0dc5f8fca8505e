//! What backends on libtorch's tensors have in common: where tensors are placed, norms and caches.

use tch::{Device, Kind, TchError, Tensor};

use super::{Shape, lowrank::ForLibtorch, step};
use crate::model::ModelError;

/// Where tensors are, and their type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) kind: Kind,
}

/// An RMS norm.
#[derive(Debug)]
pub(in crate::model::torch) struct Norm {
    pub(super) weight: Tensor,
    pub(super) epsilon: f32,
}

/// Norms of each head's query and key.
#[derive(Debug)]
pub(in crate::model::torch) struct HeadNorms {
    pub(super) query: Norm,
    pub(super) key: Norm,
}

/// Keys and values of one layer, `[blocks * block_size, kv_heads, head_dim]` each.
#[derive(Debug)]
pub(in crate::model::torch) struct Cache {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

impl Place {
    pub(super) fn placed(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        tensor.f_to_kind(self.kind)?.f_to_device(self.device)?.f_contiguous()
    }

    pub(super) fn norm(&self, weight: &Tensor, epsilon: f32) -> Result<Norm, TchError> {
        Ok(Norm { weight: self.placed(weight)?, epsilon })
    }

    pub(super) fn head_norms(
        &self,
        query: &Tensor,
        key: &Tensor,
        epsilon: f32,
    ) -> Result<HeadNorms, TchError> {
        Ok(HeadNorms { query: self.norm(query, epsilon)?, key: self.norm(key, epsilon)? })
    }

    pub(super) fn low_rank_maker(&self) -> ForLibtorch {
        ForLibtorch { device: self.device, kind: self.kind }
    }

    /// Bytes of one token's keys and values in one layer.
    pub(super) fn kv_bytes(&self, shape: &Shape) -> usize {
        2 * shape.kv_heads * shape.head_dim * self.kind.elt_size_in_bytes()
    }

    pub(super) fn cache(&self, shape: &Shape) -> Result<Cache, ModelError> {
        let size =
            [shape.blocks * shape.block_size, shape.kv_heads, shape.head_dim].map(|length| length as i64);
        let zeros = || Tensor::f_zeros(size, (self.kind, self.device)).map_err(step);
        Ok(Cache { keys: zeros()?, values: zeros()? })
    }

    pub(super) fn integers(&self, values: &[i64]) -> Result<Tensor, TchError> {
        Tensor::f_from_slice(values)?.f_to_device(self.device)
    }

    /// The rows at `indices`.
    pub(super) fn select(&self, rows: &Tensor, indices: &[usize]) -> Result<Tensor, ModelError> {
        let indices: Vec<i64> = indices.iter().map(|index| *index as i64).collect();
        self.integers(&indices).and_then(|indices| rows.f_index_select(0, &indices)).map_err(step)
    }
}
