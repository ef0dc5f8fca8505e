//! The rows of a step that anything is wanted of.

use crate::model::{Batch, Wanted};

/// Rows that the last layer computes to its end. Of the others, most of a prompt, only keys and values are needed.
#[derive(Debug)]
pub(super) struct Kept {
    /// Ascending.
    rows: Vec<usize>,
    /// Rows of the step.
    of: usize,
}

impl Kept {
    /// What is wanted of a step.
    pub(super) fn of(batch: &Batch) -> Self {
        let mut wanted = vec![false; batch.token_ids.len()];
        for sequence in &batch.sequences {
            let sum = sequence.output == Wanted::HiddenSum;
            let rows = if sum { sequence.rows.clone() } else { sequence.wanting_logits() };
            wanted[rows].fill(true);
        }
        batch.scored.iter().for_each(|scored| wanted[scored.row] = true);
        let rows = wanted.iter().enumerate().filter_map(|(row, wanted)| wanted.then_some(row)).collect();
        Self { rows, of: wanted.len() }
    }

    /// All rows of a step.
    pub(super) fn all(batch: &Batch) -> Self {
        let of = batch.token_ids.len();
        Self { rows: (0..of).collect(), of }
    }

    /// Which of the step's rows.
    pub(super) fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Whether that is all of them.
    pub(super) fn is_all(&self) -> bool {
        self.rows.len() == self.of
    }

    /// Where rows that are kept stand among those that are.
    pub(super) fn places(&self, rows: impl IntoIterator<Item = usize>) -> Vec<usize> {
        rows.into_iter().map(|row| self.rows.partition_point(|kept| *kept < row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ScoredRow, SequenceRows};

    /// Sequences of three rows each.
    fn batch(outputs: &[Wanted], scored: &[usize]) -> Batch {
        let sequence = |(index, output): (usize, &Wanted)| SequenceRows {
            rows: index * 3..index * 3 + 3,
            blocks: Vec::new(),
            context_len: 3,
            adapter: None,
            output: *output,
        };
        Batch {
            token_ids: vec![0; outputs.len() * 3],
            sequences: outputs.iter().enumerate().map(sequence).collect(),
            scored: scored.iter().map(|row| ScoredRow { row: *row, next: 0, top: 0 }).collect(),
            ..Batch::default()
        }
    }

    #[test]
    fn rows_are_kept_of_which_something_is_wanted() {
        let kept = Kept::of(&batch(&[Wanted::LastLogits, Wanted::Nothing, Wanted::HiddenSum], &[0, 2, 4]));
        assert_eq!(kept.rows(), [0, 2, 4, 6, 7, 8]);
        assert!(!kept.is_all());
        assert_eq!(kept.places([2, 4, 8]), [1, 2, 5]);
    }

    #[test]
    fn nothing_is_kept_of_a_chunk_that_goes_on_and_all_of_a_sum() {
        assert!(Kept::of(&batch(&[Wanted::Nothing], &[])).rows().is_empty());
        assert!(Kept::of(&batch(&[Wanted::HiddenSum], &[1])).is_all());
        assert!(Kept::of(&batch(&[Wanted::AllLogits], &[])).is_all());
    }
}
