//! How likely given tokens are, against what transformers says.

use serde::Deserialize;

use super::{Driver, logsumexp, on_libtorch, repository, served};
use crate::model::torch::DtypeChoice;

#[derive(Debug, Deserialize)]
struct Golden {
    input_ids: Vec<u32>,
    logsumexp: Vec<f64>,
    top20: Vec<Vec<(u32, f32)>>,
    token_nll: Vec<f32>,
    perplexity: f64,
}

fn golden() -> Golden {
    let file = repository("tests/golden/smollm2_logits.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn check(mut driver: Driver, chunk: usize) {
    let golden = golden();
    let scores = driver.scores(&golden.input_ids, 20, chunk);
    assert_eq!(scores.len(), golden.token_nll.len());
    for (position, score) in scores.iter().enumerate() {
        let expected = -golden.token_nll[position];
        assert!((score.chosen - expected).abs() < 2e-3, "{position}: {}, expected {expected}", score.chosen);
        assert_eq!(score.top.len(), 20);
        for ((_, ours), (id, logit)) in score.top.iter().zip(&golden.top20[position]) {
            let expected = logit - golden.logsumexp[position] as f32;
            assert!((ours - expected).abs() < 4e-3, "{position}: {id} at {ours}, expected {expected}");
        }
    }
    let nll = scores.iter().map(|score| -f64::from(score.chosen)).sum::<f64>() / scores.len() as f64;
    assert!((nll.exp() - golden.perplexity).abs() < 0.05, "{}, expected {}", nll.exp(), golden.perplexity);
}

#[test]
fn smollm2_scores_a_text_as_transformers_does() {
    let folder = repository("models/smollm2-135m-instruct-f32");
    check(served(folder.clone(), DtypeChoice::F32), usize::MAX);
    check(on_libtorch(folder, DtypeChoice::F32), 50);
}

#[test]
fn scores_do_not_depend_on_chunks_and_agree_with_the_logits() {
    let mut driver = served(repository("tests/golden/tiny/llama3-tied"), DtypeChoice::F32);
    let tokens: Vec<u32> = (0..100).map(|index| index * 37 % 512).collect();
    let whole = driver.scores(&tokens, 3, usize::MAX);
    assert_eq!(whole, driver.scores(&tokens, 3, 7));
    let mut sequence = super::driver::Sequence::new(&tokens[..60]);
    let logits = driver.prefill(&mut sequence, usize::MAX);
    let expected = f64::from(logits[tokens[60] as usize]) - logsumexp(&logits);
    assert!((f64::from(whole[59].chosen) - expected).abs() < 1e-5);
    assert_eq!(whole[59].top[0].0, super::argmax(&logits));
}
