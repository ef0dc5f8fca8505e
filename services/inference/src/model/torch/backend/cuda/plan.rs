//! What attention needs to know of a step, on the device.

use std::{ops::Range, rc::Rc};

use tch::{Kind, TchError, Tensor};

use super::{Cuda, recorded::Step};
use crate::{
    kernels::{Attend, Shares},
    model::{
        Batch, ModelError, SequenceRows,
        torch::{
            backend::{Part, Shape, step},
            rope::Rotations,
        },
    },
};

/// Bytes of keys and values that the rows of a recorded step's prompts may look at in a layer. Row by row they are read again
/// and again, from the chip's cache: so much takes less time, with 30 layers on an H200, than launching the operations of
/// flash attention one by one.
const MOST_LOOKED_AT: usize = 256 << 20;

/// Products in a recorded step with prompts. So many take such a chip as long as the launches of a model's operations, which
/// run beside them: with more there is nothing to be saved, and the rows that fill a recorded step up cost more than they
/// save.
const MOST_PRODUCTS: usize = 1_000_000_000_000;

/// A step.
#[derive(Debug)]
pub(in crate::model::torch) struct Plan {
    pub(super) shape: Shape,
    /// Rows that are computed; more than were asked for in a recorded step.
    pub(super) rows: usize,
    pub(super) inputs: Rc<Inputs>,
    pub(super) shares: Option<Rc<Shares>>,
    pub(super) prefill: Option<Prefill>,
    /// What was asked for, of a recorded step.
    pub(super) recorded: Option<Asked>,
}

/// What a recorded step is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Its first rows; the others are in no sequence.
    pub(super) rows: usize,
    pub(super) part: Part,
}

/// A step's integers and angles: parts of one tensor, so that they travel together.
#[derive(Debug)]
pub(super) struct Inputs {
    /// `[rows]`
    pub(super) ids: Tensor,
    /// `[rows]`: where keys and values go; -1 of rows that are in no sequence.
    pub(super) slots: Tensor,
    /// `[rows, head_dim / 2]` f32
    pub(super) cosines: Tensor,
    /// `[rows, head_dim / 2]` f32
    pub(super) sines: Tensor,
    /// `[queries]`: rows that attend straight from the blocks.
    pub(super) queries: Tensor,
    /// `[queries]`
    pub(super) contexts: Tensor,
    /// `[queries]`: whose table.
    pub(super) owners: Tensor,
    /// `[owners, table_length]`
    pub(super) tables: Tensor,
}

/// Rows of prompts, which attend together.
#[derive(Debug)]
pub(super) struct Prefill {
    /// Their indices.
    pub(super) rows: Tensor,
    /// Where the keys and values are that they look at, sequence by sequence.
    pub(super) slots: Tensor,
    pub(super) row_ends: Tensor,
    pub(super) key_ends: Tensor,
    pub(super) most_rows: usize,
    pub(super) most_keys: usize,
}

/// How many there are of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) rows: usize,
    /// Angles of a row.
    pub(super) half: usize,
    pub(super) queries: usize,
    pub(super) owners: usize,
    pub(super) table_length: usize,
}

impl Extent {
    /// Values of [`Inputs`], all together.
    pub(super) fn total(&self) -> usize {
        2 * self.rows + 2 * self.rows * self.half + 3 * self.queries + self.owners * self.table_length
    }

    /// The parts of a tensor of [`Self::total`] integers.
    pub(super) fn parts(&self, packed: &Tensor) -> Result<Inputs, TchError> {
        let mut from = 0;
        let mut next = |size: &[usize]| {
            let size: Vec<i64> = size.iter().map(|length| *length as i64).collect();
            let length = size.iter().product();
            let part = packed.f_narrow(0, from, length)?.f_view(size.as_slice());
            from += length;
            part
        };
        Ok(Inputs {
            ids: next(&[self.rows])?,
            slots: next(&[self.rows])?,
            cosines: next(&[self.rows, self.half])?.f_view_dtype(Kind::Float)?,
            sines: next(&[self.rows, self.half])?.f_view_dtype(Kind::Float)?,
            queries: next(&[self.queries])?,
            contexts: next(&[self.queries])?,
            owners: next(&[self.queries])?,
            tables: next(&[self.owners, self.table_length])?,
        })
    }

    /// The values of a step, in the order of the parts. What a recorded step has beyond the batch is in no sequence and
    /// looks at nothing. `attending` are rows, each with the index of its sequence.
    fn pack(
        &self,
        shape: &Shape,
        batch: &Batch,
        rotations: &Rotations,
        attending: &[(usize, usize)],
    ) -> Vec<i32> {
        let mut packed = Vec::with_capacity(self.total());
        let mut part = |values: &mut dyn Iterator<Item = i32>, length: usize, beyond: i32| {
            let end = packed.len() + length;
            packed.extend(values);
            packed.resize(end, beyond);
        };
        let angles = self.rows * self.half;
        part(&mut batch.token_ids.iter().map(|id| id.cast_signed()), self.rows, 0);
        part(&mut batch.sequences.iter().flat_map(|sequence| slots(shape, batch, sequence)), self.rows, -1);
        part(&mut rotations.cos.iter().map(|value| value.to_bits().cast_signed()), angles, 0);
        part(&mut rotations.sin.iter().map(|value| value.to_bits().cast_signed()), angles, 0);
        // Only recorded steps have more queries than rows that attend, and there all rows of the batch do.
        let beyond = (attending.len()..self.queries).map(|row| row as i32);
        part(&mut attending.iter().map(|(row, _)| *row as i32).chain(beyond), self.queries, 0);
        let context = |row: &usize| batch.positions[*row].cast_signed() + 1;
        part(&mut attending.iter().map(|(row, _)| context(row)), self.queries, 0);
        part(&mut attending.iter().map(|(_, sequence)| *sequence as i32), self.queries, 0);
        for sequence in &batch.sequences {
            let needed = sequence.context_len.div_ceil(shape.block_size);
            let blocks = sequence.blocks.iter().take(needed).map(|block| block.cast_signed());
            part(&mut { blocks }, self.table_length, 0);
        }
        packed.resize(self.total(), 0);
        packed
    }
}

/// Where a sequence's rows go.
fn slots(shape: &Shape, batch: &Batch, sequence: &SequenceRows) -> impl Iterator<Item = i32> {
    let positions = batch.positions[sequence.rows.clone()].iter();
    positions.map(|position| slot(shape, sequence, *position as usize) as i32)
}

/// Index of the slot at `position` of a sequence. The batch has been checked.
fn slot(shape: &Shape, sequence: &SequenceRows, position: usize) -> i64 {
    let block = sequence.blocks[position / shape.block_size] as usize;
    (block * shape.block_size + position % shape.block_size) as i64
}

impl Plan {
    /// What rows that look at the blocks themselves need.
    pub(super) fn attend(&self) -> Attend<'_> {
        Attend {
            rows: &self.inputs.queries,
            contexts: &self.inputs.contexts,
            owners: &self.inputs.owners,
            tables: &self.inputs.tables,
            block_size: self.shape.block_size,
            shares: self.shares.as_deref(),
        }
    }
}

impl Cuda {
    /// A step that is launched operation by operation.
    pub(super) fn plan_once(
        &self,
        shape: &Shape,
        batch: &Batch,
        rotations: &Rotations,
    ) -> Result<Plan, ModelError> {
        self.gpu.enter_stream().map_err(step)?;
        let mut attending = Vec::new();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            if !self.by_flash(&sequence.rows) {
                attending.extend(sequence.rows.clone().map(|row| (row, index)));
            }
        }
        let needed = |sequence: &SequenceRows| sequence.context_len.div_ceil(shape.block_size);
        let extent = Extent {
            rows: batch.token_ids.len(),
            half: shape.head_dim / 2,
            queries: attending.len(),
            owners: batch.sequences.len(),
            table_length: batch.sequences.iter().map(needed).max().unwrap_or(0),
        };
        let prompts =
            batch.sequences.iter().filter(|sequence| self.by_flash(&sequence.rows)).collect::<Vec<_>>();
        let packed =
            Tensor::f_empty([extent.total() as i64], (Kind::Int, self.place.device)).map_err(step)?;
        self.gpu.upload(&extent.pack(shape, batch, rotations, &attending), &packed).map_err(step)?;
        Ok(Plan {
            shape: *shape,
            rows: extent.rows,
            inputs: Rc::new(extent.parts(&packed).map_err(step)?),
            shares: self.shares(extent.queries)?,
            prefill: self.prompts(shape, &prompts).map_err(step)?,
            recorded: None,
        })
    }

    /// A step that is recorded, or will be; nothing where it has more rows than such, longer sequences than the model says it
    /// has, or prompts of such length that they are better off without.
    pub(super) fn plan_recorded(
        &mut self,
        (shape, batch, rotations): (&Shape, &Batch, &Rotations),
        part: Part,
    ) -> Result<Option<Plan>, ModelError> {
        let asked = batch.token_ids.len();
        let longest = batch.sequences.iter().map(|sequence| sequence.context_len).max().unwrap_or(0);
        let fits = |rows: &usize| {
            longest <= self.context
                && self.looked_at(shape, batch) <= MOST_LOOKED_AT
                && (part == Part::Logits || rows * self.weights <= MOST_PRODUCTS)
        };
        let Some(rows) = Step::rows_for(asked).filter(fits) else { return Ok(None) };
        self.gpu.enter_stream().map_err(step)?;
        let extent = Extent {
            rows,
            half: shape.head_dim / 2,
            queries: rows,
            owners: rows,
            table_length: self.context.div_ceil(shape.block_size).min(shape.blocks),
        };
        let key = (rows, part);
        if !self.steps.contains_key(&key) {
            let made = self.step(extent)?;
            self.steps.insert(key, made);
        }
        let made = &self.steps[&key];
        let sequences = batch.sequences.iter().enumerate();
        let attending =
            sequences.flat_map(|(index, sequence)| sequence.rows.clone().map(move |row| (row, index)));
        let attending: Vec<(usize, usize)> = attending.collect();
        self.gpu.upload(&extent.pack(shape, batch, rotations, &attending), &made.packed).map_err(step)?;
        Ok(Some(Plan {
            shape: *shape,
            rows,
            inputs: Rc::clone(&made.inputs),
            shares: made.shares.clone(),
            prefill: None,
            recorded: Some(Asked { rows: asked, part }),
        }))
    }

    /// Bytes of keys and values that rows of prompts look at in a layer, one by one.
    fn looked_at(&self, shape: &Shape, batch: &Batch) -> usize {
        let prompts = batch.sequences.iter().filter(|sequence| self.by_flash(&sequence.rows));
        let positions: usize = prompts.map(|prompt| prompt.rows.len() * prompt.context_len).sum();
        positions * self.place.kv_bytes(shape)
    }

    /// Whether rows attend together where they are not recorded.
    fn by_flash(&self, rows: &Range<usize>) -> bool {
        rows.len() > 1 && self.gpu.has_flash_attention()
    }

    /// Room for the shares of some rows' attention, where it is cut into any.
    pub(super) fn shares(&self, queries: usize) -> Result<Option<Rc<Shares>>, ModelError> {
        self.gpu.shares(queries).map(|shares| shares.map(Rc::new)).map_err(step)
    }

    fn prompts(&self, shape: &Shape, prompts: &[&SequenceRows]) -> Result<Option<Prefill>, TchError> {
        if prompts.is_empty() {
            return Ok(None);
        }
        let rows: Vec<i64> =
            prompts.iter().flat_map(|prompt| prompt.rows.clone()).map(|row| row as i64).collect();
        let slots = prompts
            .iter()
            .flat_map(|prompt| (0..prompt.context_len).map(|position| slot(shape, prompt, position)));
        let slots: Vec<i64> = slots.collect();
        let ends = |length: &dyn Fn(&SequenceRows) -> usize| {
            let mut ends = vec![0];
            for prompt in prompts {
                ends.push(ends[ends.len() - 1] + length(prompt) as i32);
            }
            Tensor::f_from_slice(&ends)?.f_to_device(self.place.device)
        };
        let most = |length: &dyn Fn(&SequenceRows) -> usize| {
            prompts.iter().map(|prompt| length(prompt)).max().unwrap_or(0)
        };
        Ok(Some(Prefill {
            rows: Tensor::f_from_slice(&rows)?.f_to_device(self.place.device)?,
            slots: Tensor::f_from_slice(&slots)?.f_to_device(self.place.device)?,
            row_ends: ends(&|prompt| prompt.rows.len())?,
            key_ends: ends(&|prompt| prompt.context_len)?,
            most_rows: most(&|prompt| prompt.rows.len()),
            most_keys: most(&|prompt| prompt.context_len),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Wanted;

    const SHAPE: Shape = Shape { heads: 2, kv_heads: 1, head_dim: 4, blocks: 8, block_size: 4 };

    /// Two sequences of one row each, at positions 5 and 0.
    fn batch() -> Batch {
        let sequence = |row: usize, blocks: &[u32], context_len: usize| SequenceRows {
            rows: row..row + 1,
            blocks: blocks.to_vec(),
            context_len,
            adapter: None,
            output: Wanted::LastLogits,
        };
        Batch {
            token_ids: vec![70, 71],
            positions: vec![5, 0],
            sequences: vec![sequence(0, &[3, 6, 1], 6), sequence(1, &[2], 1)],
            ..Batch::default()
        }
    }

    fn integers(tensor: &Tensor) -> Vec<i32> {
        tensor.view(-1).try_into().unwrap()
    }

    #[test]
    fn a_recorded_step_has_rows_beyond_the_batch_that_touch_nothing() {
        let extent = Extent { rows: 4, half: 2, queries: 4, owners: 4, table_length: 3 };
        let rotations = Rotations { cos: vec![0.5; 4], sin: vec![0.25; 4] };
        let packed = extent.pack(&SHAPE, &batch(), &rotations, &[(0, 0), (1, 1)]);
        assert_eq!(packed.len(), extent.total());
        let inputs = extent.parts(&Tensor::from_slice(&packed)).unwrap();
        assert_eq!(integers(&inputs.ids), [70, 71, 0, 0]);
        // Position 5 is the second slot of the second block, which is block 6.
        assert_eq!(integers(&inputs.slots), [6 * 4 + 1, 2 * 4, -1, -1]);
        assert_eq!(integers(&inputs.queries), [0, 1, 2, 3]);
        assert_eq!(integers(&inputs.contexts), [6, 1, 0, 0]);
        assert_eq!(integers(&inputs.owners), [0, 1, 0, 0]);
        // Six positions are in two blocks: the third is not looked at yet.
        assert_eq!(integers(&inputs.tables), [3, 6, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        let angles: Vec<f32> = inputs.cosines.view(-1).try_into().unwrap();
        assert_eq!(angles, [0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_step_with_a_prompt_attends_row_by_row_where_there_is_no_flash_attention() {
        let mut batch = batch();
        batch.token_ids.insert(1, 72);
        batch.positions.insert(1, 6);
        batch.sequences[0] = SequenceRows { rows: 0..2, context_len: 7, ..batch.sequences[0].clone() };
        batch.sequences[1].rows = 2..3;
        let extent = Extent { rows: 3, half: 2, queries: 3, owners: 2, table_length: 2 };
        let packed = extent.pack(&SHAPE, &batch, &Rotations::default(), &[(0, 0), (1, 0), (2, 1)]);
        let inputs = extent.parts(&Tensor::from_slice(&packed)).unwrap();
        assert_eq!(integers(&inputs.slots), [25, 26, 8]);
        assert_eq!(integers(&inputs.contexts), [6, 7, 1]);
        assert_eq!(integers(&inputs.owners), [0, 0, 1]);
    }

    #[test]
    fn a_recorded_step_takes_the_next_larger_number_of_rows() {
        let taken = [1, 2, 3, 9, 64, 65, 512, 513].map(Step::rows_for);
        assert_eq!(taken, [Some(1), Some(2), Some(4), Some(16), Some(64), Some(96), Some(512), None]);
    }
}
