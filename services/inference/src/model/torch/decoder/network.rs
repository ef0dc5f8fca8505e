//! Weights and caches, and the operations on them.

use super::kept::Kept;
use crate::model::{
    Batch, ModelError,
    torch::{
        adapter::{Groups, Site},
        backend::Backend,
    },
};

/// A model's weights, and the keys and values of all its layers.
pub(super) struct Network<B: Backend> {
    pub(super) embedding: B::Matrix,
    /// The output projection, where it is not the embedding.
    pub(super) head: Option<B::Matrix>,
    pub(super) norm: B::Norm,
    pub(super) layers: Vec<Layer<B>>,
    /// One for each layer, once there is room.
    pub(super) caches: Vec<B::Cache>,
}

/// One layer's weights.
pub(super) struct Layer<B: Backend> {
    pub(super) attention_norm: B::Norm,
    /// Queries, keys and values by one product.
    pub(super) qkv: B::Matrix,
    pub(super) head_norms: Option<B::HeadNorms>,
    pub(super) output: B::Matrix,
    pub(super) mlp_norm: B::Norm,
    /// Gate and up by one product.
    pub(super) gate_up: B::Matrix,
    pub(super) down: B::Matrix,
}

/// What a step goes through all layers with.
pub(super) struct Pass<'a, 'p, B: Backend> {
    pub(super) batch: &'a Batch,
    pub(super) plan: &'a B::Plan<'p>,
    pub(super) groups: &'a Groups<'a, B::LowRank>,
    pub(super) kept: &'a Kept,
}

impl<B: Backend> Network<B> {
    /// The rows that are kept, after the last layer, before the final norm; arbitrary where none is.
    pub(super) fn hidden(&mut self, backend: &mut B, pass: &Pass<'_, '_, B>) -> Result<B::Rows, ModelError> {
        let mut hidden = backend.embed(&self.embedding, &pass.batch.token_ids, pass.plan)?;
        let layers = self.layers.len();
        for (index, (layer, cache)) in self.layers.iter().zip(&mut self.caches).enumerate() {
            let normed = backend.norm(&hidden, &layer.attention_norm)?;
            let mut qkv = backend.product(&normed, &layer.qkv)?;
            pass.groups.add(backend, (index, Site::Qkv), &mut qkv, &normed)?;
            let attended = backend.attention(qkv, layer.head_norms.as_ref(), cache, pass.plan)?;
            if index + 1 < layers || pass.kept.is_all() {
                layer.finish(backend, (index, pass.groups), &mut hidden, &attended)?;
            } else if !pass.kept.rows().is_empty() {
                let kept = pass.kept.rows();
                hidden = backend.select(&hidden, kept)?;
                let attended = backend.select(&attended, kept)?;
                layer.finish(backend, (index, &pass.groups.among(kept)), &mut hidden, &attended)?;
            }
        }
        Ok(hidden)
    }

    /// Logits after rows that the last layer has left.
    pub(super) fn logits(&self, backend: &mut B, rows: &B::Rows) -> Result<B::Rows, ModelError> {
        let normed = backend.norm(rows, &self.norm)?;
        backend.product(&normed, self.head.as_ref().unwrap_or(&self.embedding))
    }
}

impl<B: Backend> Layer<B> {
    /// What comes after attention, by itself for each row; `index` is the layer's.
    fn finish(
        &self,
        backend: &mut B,
        (index, groups): (usize, &Groups<'_, B::LowRank>),
        hidden: &mut B::Rows,
        attended: &B::Rows,
    ) -> Result<(), ModelError> {
        backend.add_product(hidden, attended, &self.output)?;
        groups.add(backend, (index, Site::Output), hidden, attended)?;
        let normed = backend.norm(hidden, &self.mlp_norm)?;
        let mut gate_up = backend.product(&normed, &self.gate_up)?;
        groups.add(backend, (index, Site::GateUp), &mut gate_up, &normed)?;
        let activated = backend.swiglu(&gate_up)?;
        backend.add_product(hidden, &activated, &self.down)?;
        groups.add(backend, (index, Site::Down), hidden, &activated)
    }
}
