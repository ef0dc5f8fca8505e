//! Steps that do not fit the model or its cache are errors, never panics.

use super::{on_cpu, repository};
use crate::model::{
    Batch, Model, SequenceRows, Wanted,
    torch::{DtypeChoice, load},
};

fn model() -> Box<dyn Model> {
    load(&on_cpu(repository("tests/golden/tiny/llama3-tied"), DtypeChoice::F32)).unwrap()
}

/// A prefill of three tokens in blocks of two.
fn batch() -> Batch {
    let sequence = SequenceRows {
        rows: 0..3,
        blocks: vec![1, 0],
        context_len: 3,
        adapter: None,
        output: Wanted::LastLogits,
    };
    Batch {
        token_ids: vec![5, 6, 7],
        positions: vec![0, 1, 2],
        sequences: vec![sequence],
        ..Batch::default()
    }
}

fn refusal(change: impl FnOnce(&mut Batch)) -> String {
    let mut model = model();
    model.allocate_cache(4, 2).unwrap();
    let mut batch = batch();
    change(&mut batch);
    model.forward(&batch).expect_err("the batch does not fit").to_string()
}

#[test]
fn a_step_before_there_is_a_cache_is_an_error() {
    let error = model().forward(&batch()).unwrap_err();
    assert_eq!(error.to_string(), "the model failed in a step: there is no cache yet");
}

#[test]
fn a_cache_of_nothing_and_one_beyond_all_memory_are_errors() {
    let mut model = model();
    assert!(model.allocate_cache(0, 16).is_err());
    let error = model.allocate_cache(usize::MAX / 1024, 16).unwrap_err();
    assert!(error.to_string().contains("no memory"), "{error}");
    model.allocate_cache(4, 16).unwrap();
    model.forward(&batch()).unwrap();
}

#[test]
fn rows_that_do_not_fit_are_errors() {
    assert!(refusal(|batch| batch.token_ids[1] = 512).contains("outside the vocabulary"));
    assert!(refusal(|batch| batch.positions.truncate(2)).contains("3 token ids, but 2 positions"));
    assert!(refusal(|batch| batch.positions[2] = 3).contains("do not follow one another"));
    assert!(refusal(|batch| batch.sequences[0].rows = 0..2).contains("context_len"));
    assert!(refusal(|batch| batch.sequences[0].rows = 1..3).contains("begin at 0"));
    assert!(refusal(|batch| batch.sequences[0].rows = 0..4).contains("begin at 0"));
    assert!(refusal(|batch| batch.sequences.clear()).contains("the sequences hold 0"));
}

#[test]
fn blocks_that_do_not_fit_are_errors() {
    assert!(
        refusal(|batch| batch.sequences[0].blocks.truncate(1))
            .contains("1 blocks for 3 tokens, 2 are needed")
    );
    assert!(refusal(|batch| batch.sequences[0].blocks[0] = 4).contains("block 4 is not in the cache"));
    assert!(refusal(|batch| batch.sequences[0].context_len = 4).contains("context_len is 4"));
    let text = refusal(|batch| {
        let again = SequenceRows { rows: 3..6, ..batch.sequences[0].clone() };
        batch.token_ids.extend([5, 6, 7]);
        batch.positions.extend([0, 1, 2]);
        batch.sequences.push(again);
    });
    assert!(text.contains("two rows write block"), "{text}");
}

#[test]
fn an_empty_step_gives_nothing() {
    let mut model = model();
    model.allocate_cache(4, 2).unwrap();
    let output = model.forward(&Batch::default()).unwrap();
    assert!(output.logits.is_empty() && output.hidden_sums.is_empty());
}
