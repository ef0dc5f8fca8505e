//! A batch is checked before anything is computed: below here indices are within bounds.

use super::Shape;
use crate::model::{Batch, ModelError, ModelInfo, ScoredRow, SequenceRows};

/// Checks a batch against the model and its cache.
///
/// # Errors
/// [`ModelError::Step`] with what does not fit.
pub(super) fn batch(batch: &Batch, info: &ModelInfo, shape: &Shape) -> Result<(), ModelError> {
    ensure(shape.blocks > 0, || "there is no cache yet".into())?;
    let rows = batch.token_ids.len();
    ensure(rows == batch.positions.len(), || {
        format!("{rows} token ids, but {} positions", batch.positions.len())
    })?;
    let outside = batch.token_ids.iter().find(|id| **id as usize >= info.vocabulary_size);
    ensure(outside.is_none(), || format!("token id {outside:?} is outside the vocabulary"))?;
    let unscorable = |scored: &&ScoredRow| scored.row >= rows || scored.next as usize >= info.vocabulary_size;
    let unscorable = batch.scored.iter().find(unscorable);
    ensure(unscorable.is_none(), || format!("{unscorable:?} is outside the batch or the vocabulary"))?;
    let mut next = 0;
    for (index, rows) in batch.sequences.iter().enumerate() {
        ensure(
            rows.rows.start == next && rows.rows.end > next && rows.rows.end <= batch.positions.len(),
            || format!("sequence {index} has the rows {:?}, expected some that begin at {next}", rows.rows),
        )?;
        next = rows.rows.end;
        sequence(batch, rows, shape)
            .map_err(|reason| ModelError::Step(format!("sequence {index}: {reason}")))?;
    }
    ensure(next == rows, || format!("{rows} rows, but the sequences hold {next}"))
}

/// Checks one sequence, whose rows are within the batch.
fn sequence(batch: &Batch, sequence: &SequenceRows, shape: &Shape) -> Result<(), String> {
    let positions = &batch.positions[sequence.rows.clone()];
    let follow = positions.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
    if !follow {
        return Err("its positions do not follow one another".into());
    }
    let length = positions.last().map_or(0, |last| *last as usize + 1);
    if length != sequence.context_len {
        return Err(format!(
            "context_len is {}, but its last row is at {}",
            sequence.context_len,
            length - 1
        ));
    }
    let needed = length.div_ceil(shape.block_size);
    match sequence.blocks.get(..needed) {
        None => Err(format!("{} blocks for {length} tokens, {needed} are needed", sequence.blocks.len())),
        Some(blocks) => match blocks.iter().find(|block| **block as usize >= shape.blocks) {
            Some(block) => Err(format!("block {block} is not in the cache")),
            None => Ok(()),
        },
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), ModelError> {
    if holds { Ok(()) } else { Err(ModelError::Step(otherwise())) }
}
