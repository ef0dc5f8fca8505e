//! The forward pass of a Llama-family model, written once over a [`Backend`].

mod check;
mod kept;
mod load;
mod network;

use kept::Kept;
#[cfg(test)]
pub(super) use load::Source;
pub(super) use load::load;
use network::{Network, Pass};

use std::sync::Arc;

use super::{
    adapter::{Groups, Loader, Widths},
    backend::{Backend, Part, Shape},
    rope::{Rope, Rotations},
};
use crate::{
    model::{
        AdapterLoader, Batch, DeviceMemory, Model, ModelError, ModelInfo, SequenceRows, StepOutput, Values,
        Wanted,
    },
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
    network: Network<B>,
    scorer: Scorer,
}

impl<B: Backend> Model for Decoder<B> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn adapter_loader(&self) -> Option<Arc<dyn AdapterLoader>> {
        Some(Arc::new(Loader { maker: self.backend.low_rank_maker(), widths: self.widths }))
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        self.backend.device_memory()
    }

    fn recorded_rows(&self) -> &[usize] {
        self.backend.recorded_rows()
    }

    fn allocate_cache(&mut self, blocks: usize, block_size: usize) -> Result<(), ModelError> {
        if blocks == 0 || block_size == 0 {
            return Err(ModelError::Step(format!(
                "a cache of {blocks} blocks of {block_size} tokens holds nothing"
            )));
        }
        // What was there goes first: both may not fit.
        self.network.caches.clear();
        self.shape = Shape { blocks, block_size, ..self.shape };
        let caches = self.network.layers.iter().map(|_| self.backend.cache(&self.shape));
        self.network.caches = caches.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepOutput, ModelError> {
        let _no_grad = tch::no_grad_guard();
        check::batch(batch, &self.info, &self.shape)?;
        if batch.token_ids.is_empty() {
            return Ok(StepOutput::default());
        }
        let groups = Groups::of(batch)?;
        let rotations = self.rotations(batch);
        if groups.is_empty() && wants_logits_alone(batch) {
            let part = if is_decode(batch) { Part::Logits } else { Part::Hidden };
            if let Some(plan) = self.backend.recorded_plan(&self.shape, batch, &rotations, part)? {
                return Ok(StepOutput {
                    logits: self.recorded(batch, &plan, part)?,
                    ..StepOutput::default()
                });
            }
        }
        let plan = self.backend.plan(&self.shape, batch, rotations)?;
        let kept = Kept::of(batch);
        let pass = Pass { batch, plan: &plan, groups: &groups, kept: &kept };
        let hidden = self.network.hidden(&mut self.backend, &pass)?;
        let hidden = Hidden { rows: hidden, kept };
        Ok(StepOutput {
            logits: self.wanted_logits(&hidden, batch)?,
            hidden_sums: self.hidden_sums(&hidden, batch)?,
            scores: self.scores(&hidden, batch)?,
        })
    }
}

/// What the last layer has left.
struct Hidden<B: Backend> {
    rows: B::Rows,
    /// Which rows of the step they are.
    kept: Kept,
}

/// Whether nothing is wanted but logits.
fn wants_logits_alone(batch: &Batch) -> bool {
    let sums = batch.sequences.iter().any(|sequence| sequence.output == Wanted::HiddenSum);
    batch.scored.is_empty() && !sums
}

/// Whether every sequence has one row and wants its logits.
fn is_decode(batch: &Batch) -> bool {
    let decodes = |sequence: &SequenceRows| sequence.rows.len() == 1 && sequence.output == Wanted::LastLogits;
    batch.sequences.iter().all(decodes)
}

impl<B: Backend> Decoder<B> {
    /// Logits of a step whose operations the backend records.
    fn recorded(&mut self, batch: &Batch, plan: &B::Plan<'_>, part: Part) -> Result<Values, ModelError> {
        let (groups, kept) = (Groups::default(), Kept::all(batch));
        let pass = Pass { batch, plan, groups: &groups, kept: &kept };
        let network = &mut self.network;
        let rows = self.backend.recorded(plan, &mut |backend| {
            let hidden = network.hidden(backend, &pass)?;
            match part {
                Part::Hidden => Ok(hidden),
                Part::Logits => network.logits(backend, &hidden),
            }
        })?;
        match part {
            Part::Hidden => self.wanted_logits(&Hidden { rows, kept }, batch),
            Part::Logits => self.backend.values(rows),
        }
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

    /// Logits of all rows that want them.
    fn wanted_logits(&mut self, hidden: &Hidden<B>, batch: &Batch) -> Result<Values, ModelError> {
        let wanting: Vec<usize> = batch.sequences.iter().flat_map(SequenceRows::wanting_logits).collect();
        if wanting.is_empty() {
            return Ok(Values::default());
        }
        self.logits_of(hidden, &wanting)
    }

    fn logits_of(&mut self, hidden: &Hidden<B>, rows: &[usize]) -> Result<Values, ModelError> {
        let places = hidden.kept.places(rows.iter().copied());
        let rows = self.backend.select(&hidden.rows, &places)?;
        let logits = self.network.logits(&mut self.backend, &rows)?;
        self.backend.values(logits)
    }

    /// How likely the given tokens are, a few rows at a time: a long prompt's logits are never there all at once.
    fn scores(
        &mut self,
        hidden: &Hidden<B>,
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
    fn hidden_sums(&mut self, hidden: &Hidden<B>, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let mut sums = Vec::new();
        for sequence in batch.sequences.iter().filter(|sequence| sequence.output == Wanted::HiddenSum) {
            let places = hidden.kept.places(sequence.rows.clone());
            let rows = self.backend.select(&hidden.rows, &places)?;
            let normed = self.backend.norm(&rows, &self.network.norm)?;
            let mut sum = vec![0.0; self.info.hidden_size];
            for row in self.backend.values(normed)?.chunks_exact(self.info.hidden_size) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums.append(&mut sum);
        }
        Ok(sums)
    }
}
