//! The forward pass of a Llama-family model, written once over a [`Backend`].

mod check;
mod load;

#[cfg(test)]
pub(super) use load::Source;
pub(super) use load::load;

use std::sync::Arc;

use super::{
    adapter::{Groups, Loader, Site, Widths},
    backend::{Backend, Shape},
    rope::{Rope, Rotations},
};
use crate::{
    model::{AdapterLoader, Batch, Model, ModelError, ModelInfo, StepOutput, Wanted},
    sampler::{Logprobs, SamplingError, Scorer},
};

/// Rows whose whole distributions are held at once while likelihoods are computed.
const SCORED_TOGETHER: usize = 32;

/// A loaded model.
struct Decoder<B: Backend> {
    backend: B,
    info: ModelInfo,
    shape: Shape,
    widths: Widths,
    rope: Rope,
    /// Where the rotation does not depend on the sequence, its angles.
    frequencies: Option<Vec<f32>>,
    embedding: B::Matrix,
    /// The output projection, where it is not the embedding.
    head: Option<B::Matrix>,
    norm: B::Norm,
    layers: Vec<Layer<B>>,
    /// One for each layer, once there is room.
    caches: Vec<B::Cache>,
    scorer: Scorer,
}

/// One layer's weights.
struct Layer<B: Backend> {
    attention_norm: B::Norm,
    /// Queries, keys and values by one product.
    qkv: B::Matrix,
    head_norms: Option<B::HeadNorms>,
    output: B::Matrix,
    mlp_norm: B::Norm,
    /// Gate and up by one product.
    gate_up: B::Matrix,
    down: B::Matrix,
}

impl<B: Backend> Model for Decoder<B> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn adapter_loader(&self) -> Option<Arc<dyn AdapterLoader>> {
        Some(Arc::new(Loader { maker: self.backend.low_rank_maker(), widths: self.widths }))
    }

    fn allocate_cache(&mut self, blocks: usize, block_size: usize) -> Result<(), ModelError> {
        if blocks == 0 || block_size == 0 {
            return Err(ModelError::Step(format!(
                "a cache of {blocks} blocks of {block_size} tokens holds nothing"
            )));
        }
        // What was there goes first: both may not fit.
        self.caches.clear();
        self.shape = Shape { blocks, block_size, ..self.shape };
        self.caches =
            self.layers.iter().map(|_| self.backend.cache(&self.shape)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepOutput, ModelError> {
        let _no_grad = tch::no_grad_guard();
        check::batch(batch, &self.info, &self.shape)?;
        if batch.token_ids.is_empty() {
            return Ok(StepOutput::default());
        }
        let groups = Groups::of(batch)?;
        let hidden = self.hidden(batch, &groups)?;
        Ok(StepOutput {
            logits: self.logits(&hidden, batch)?,
            hidden_sums: self.hidden_sums(&hidden, batch)?,
            scores: self.scores(&hidden, batch)?,
        })
    }
}

impl<B: Backend> Decoder<B> {
    /// The rows after the last layer, before the final norm.
    fn hidden(&mut self, batch: &Batch, groups: &Groups<'_, B::LowRank>) -> Result<B::Rows, ModelError> {
        let rotations = self.rotations(batch);
        let plan = self.backend.plan(&self.shape, batch, rotations)?;
        let backend = &mut self.backend;
        let mut hidden = backend.embed(&self.embedding, &batch.token_ids)?;
        for (index, (layer, cache)) in self.layers.iter().zip(&mut self.caches).enumerate() {
            let normed = backend.norm(&hidden, &layer.attention_norm)?;
            let mut qkv = backend.product(&normed, &layer.qkv)?;
            groups.add(backend, (index, Site::Qkv), &mut qkv, &normed)?;
            let attended = backend.attention(qkv, layer.head_norms.as_ref(), cache, &plan)?;
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

    fn rotations(&self, batch: &Batch) -> Rotations {
        let mut rotations = Rotations::default();
        for sequence in &batch.sequences {
            let positions = &batch.positions[sequence.rows.clone()];
            match &self.frequencies {
                Some(frequencies) => rotations.extend(positions, frequencies),
                None => rotations.extend(positions, &self.rope.frequencies(sequence.context_len)),
            }
        }
        rotations
    }

    /// Logits of the last row of each sequence that wants them.
    fn logits(&mut self, hidden: &B::Rows, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let wanting = batch.sequences.iter().filter(|sequence| sequence.output == Wanted::LastLogits);
        let last: Vec<usize> = wanting.map(|sequence| sequence.rows.end - 1).collect();
        if last.is_empty() {
            return Ok(Vec::new());
        }
        self.logits_of(hidden, &last)
    }

    fn logits_of(&mut self, hidden: &B::Rows, rows: &[usize]) -> Result<Vec<f32>, ModelError> {
        let rows = self.backend.select(hidden, rows)?;
        let normed = self.backend.norm(&rows, &self.norm)?;
        let logits = self.backend.product(&normed, self.head.as_ref().unwrap_or(&self.embedding))?;
        self.backend.values(logits)
    }

    /// How likely the given tokens are, a few rows at a time: a long prompt's logits are never there all at once.
    fn scores(
        &mut self,
        hidden: &B::Rows,
        batch: &Batch,
    ) -> Result<Vec<Result<Logprobs, SamplingError>>, ModelError> {
        let mut scores = Vec::with_capacity(batch.scored.len());
        for slice in batch.scored.chunks(SCORED_TOGETHER) {
            let rows: Vec<usize> = slice.iter().map(|scored| scored.row).collect();
            let logits = self.logits_of(hidden, &rows)?;
            let each = slice.iter().zip(logits.chunks_exact(self.info.vocabulary_size));
            scores.extend(each.map(|(row, logits)| self.scorer.score(logits, row.next, row.top)));
        }
        Ok(scores)
    }

    /// Sums over the rows of each sequence that wants them, after the final norm.
    fn hidden_sums(&mut self, hidden: &B::Rows, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let mut sums = Vec::new();
        for sequence in batch.sequences.iter().filter(|sequence| sequence.output == Wanted::HiddenSum) {
            let rows: Vec<usize> = sequence.rows.clone().collect();
            let rows = self.backend.select(hidden, &rows)?;
            let normed = self.backend.norm(&rows, &self.norm)?;
            let mut sum = vec![0.0; self.info.hidden_size];
            for row in self.backend.values(normed)?.chunks_exact(self.info.hidden_size) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums.append(&mut sum);
        }
        Ok(sums)
    }
}
