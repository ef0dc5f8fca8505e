//! Weights and caches, and the operations on them.

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

impl<B: Backend> Network<B> {
    /// The rows after the last layer, before the final norm.
    pub(super) fn hidden(
        &mut self,
        backend: &mut B,
        batch: &Batch,
        plan: &B::Plan<'_>,
        groups: &Groups<'_, B::LowRank>,
    ) -> Result<B::Rows, ModelError> {
        let mut hidden = backend.embed(&self.embedding, &batch.token_ids, plan)?;
        for (index, (layer, cache)) in self.layers.iter().zip(&mut self.caches).enumerate() {
            let normed = backend.norm(&hidden, &layer.attention_norm)?;
            let mut qkv = backend.product(&normed, &layer.qkv)?;
            groups.add(backend, (index, Site::Qkv), &mut qkv, &normed)?;
            let attended = backend.attention(qkv, layer.head_norms.as_ref(), cache, plan)?;
            backend.add_product(&mut hidden, &attended, &layer.output)?;
            groups.add(backend, (index, Site::Output), &mut hidden, &attended)?;
            let normed = backend.norm(&hidden, &layer.mlp_norm)?;
            let mut gate_up = backend.product(&normed, &layer.gate_up)?;
            groups.add(backend, (index, Site::GateUp), &mut gate_up, &normed)?;
            let activated = backend.swiglu(&gate_up)?;
            backend.add_product(&mut hidden, &activated, &layer.down)?;
            groups.add(backend, (index, Site::Down), &mut hidden, &activated)?;
        }
        Ok(hidden)
    }

    /// Logits after rows that the last layer has left.
    pub(super) fn logits(&self, backend: &mut B, rows: &B::Rows) -> Result<B::Rows, ModelError> {
        let normed = backend.norm(rows, &self.norm)?;
        backend.product(&normed, self.head.as_ref().unwrap_or(&self.embedding))
    }
}
