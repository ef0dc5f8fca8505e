//! The default model against what transformers gave for it in f32.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Driver, driver::Sequence, repository, served};
use crate::model::{Wanted, torch::DtypeChoice};

#[derive(Debug, Deserialize)]
struct Greedy {
    cases: Vec<GreedyCase>,
}

#[derive(Debug, Deserialize)]
struct GreedyCase {
    input_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
struct Logits {
    input_ids: Vec<u32>,
    logsumexp: Vec<f64>,
    top20: Vec<Vec<(u32, f32)>>,
}

fn golden<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let file = repository("tests/golden").join(name);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Its folder.
pub(super) fn folder() -> PathBuf {
    let folder = repository("models/smollm2-135m-instruct-f32");
    assert!(folder.join("model.safetensors").exists(), "{} is missing: run `make model`", folder.display());
    folder
}

fn smollm2() -> Driver {
    served(folder(), DtypeChoice::F32)
}

#[test]
fn smollm2_answers_every_prompt_as_in_transformers_alone_and_together() {
    check_answers(smollm2());
}

#[test]
fn smollm2_logits_are_those_of_transformers() {
    check_logits(smollm2());
}

#[test]
fn smollm2_hidden_sums_are_embeddings_by_mean_pooling() {
    check_sums(smollm2());
}

/// Greedy tokens, prompt by prompt and all in one batch.
pub(super) fn check_answers(mut driver: Driver) {
    // The golden answers were generated with a least length, that is without the end id.
    driver.forbidden = Some(2);
    let cases = golden::<Greedy>("smollm2_greedy.json").cases;
    for case in &cases {
        assert_eq!(driver.greedy(&case.input_ids, case.greedy_ids.len(), usize::MAX), case.greedy_ids);
    }
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| case.input_ids.clone()).collect();
    let answers = driver.greedy_together(&prompts, cases[0].greedy_ids.len());
    for (case, answer) in cases.iter().zip(answers) {
        assert_eq!(answer, case.greedy_ids);
    }
}

/// Logits after every token of a text, of the likeliest 20 and of all together.
pub(super) fn check_logits(mut driver: Driver) {
    let golden: Logits = golden("smollm2_logits.json");
    let mut sequence = Sequence::new(&golden.input_ids);
    let (mut worst, mut at) = (0.0, 0);
    for (position, (logsumexp, top)) in golden.logsumexp.iter().zip(&golden.top20).enumerate() {
        let logits = driver.step(&mut [(&mut sequence, 1, Wanted::LastLogits)]).logits;
        let of_top = top.iter().map(|(id, logit)| f64::from((logits[*id as usize] - logit).abs()));
        let off = of_top.fold((super::logsumexp(&logits) - logsumexp).abs(), f64::max);
        if off > worst {
            (worst, at) = (off, position);
        }
    }
    assert!(worst < 2e-3, "logits are up to {worst} off, at position {at}");
}

#[derive(Debug, Deserialize)]
struct Embeddings {
    cases: Vec<EmbeddingCase>,
}

#[derive(Debug, Deserialize)]
struct EmbeddingCase {
    input_ids: Vec<u32>,
    embedding: Vec<f32>,
}

/// Embeddings by mean pooling.
pub(super) fn check_sums(mut driver: Driver) {
    for case in golden::<Embeddings>("smollm2_embeddings.json").cases {
        let mut sequence = Sequence::new(&case.input_ids);
        let rows = case.input_ids.len();
        // The mean and the sum have one direction.
        let sum = driver.step(&mut [(&mut sequence, rows, Wanted::HiddenSum)]).hidden_sums;
        let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        for (ours, expected) in sum.iter().map(|value| value / length).zip(&case.embedding) {
            assert!((ours - expected).abs() < 1e-5, "{ours}, expected {expected}");
        }
    }
}
