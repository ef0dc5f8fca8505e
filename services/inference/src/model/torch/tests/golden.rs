//! Small models with random weights, one for each variation of the architecture.

use serde::Deserialize;

use super::{Driver, argmax, driver::Sequence, logsumexp, on_kernels, on_libtorch, repository, served};
use crate::{
    kernels::Isa,
    model::{Wanted, torch::DtypeChoice},
};

/// golden.json of a folder.
#[derive(Debug, Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    input_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    last_logits_top8: Vec<(u32, f32)>,
    last_logsumexp: f64,
}

/// Every folder under tests/golden/tiny.
pub(super) fn folders() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(repository("tests/golden/tiny")).unwrap();
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 4, "{folders:?}");
    folders
}

fn golden(folder: &std::path::Path) -> Golden {
    serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap()
}

/// The golden answers were generated with a least length, that is without the end id.
fn without_end(mut driver: Driver) -> Driver {
    driver.forbidden = Some(2);
    driver
}

fn check_logits(driver: &mut Driver, case: &Case, chunk: usize, name: &str) {
    let mut sequence = Sequence::new(&case.input_ids);
    let logits = driver.prefill(&mut sequence, chunk);
    driver.free(sequence);
    for (id, logit) in &case.last_logits_top8 {
        let ours = logits[*id as usize];
        assert!((ours - logit).abs() < 2e-4, "{name}, chunk {chunk}: logit {id} is {ours}, expected {logit}");
    }
    assert!((logsumexp(&logits) - case.last_logsumexp).abs() < 2e-4, "{name}");
}

/// Logits and greedy tokens, prompts in chunks.
pub(super) fn check(driver: Driver, folder: &std::path::Path, chunk: usize) {
    let name = folder.display().to_string();
    let mut driver = without_end(driver);
    for case in golden(folder).cases {
        check_logits(&mut driver, &case, chunk, &name);
        let answer = driver.greedy(&case.input_ids, case.greedy_ids.len(), chunk);
        assert_eq!(answer, case.greedy_ids, "{name}, chunk {chunk}");
    }
}

/// Greedy tokens of all prompts in the same steps.
pub(super) fn check_together(driver: Driver, folder: &std::path::Path) {
    let golden = golden(folder);
    let mut driver = without_end(driver);
    let prompts: Vec<_> = golden.cases.iter().map(|case| case.input_ids.clone()).collect();
    let answers = driver.greedy_together(&prompts, golden.cases[0].greedy_ids.len());
    for (case, answer) in golden.cases.iter().zip(answers) {
        assert_eq!(answer, case.greedy_ids, "{}", folder.display());
    }
}

#[test]
fn tiny_models_answer_as_in_transformers() {
    for folder in folders() {
        check(served(folder.clone(), DtypeChoice::F32), &folder, usize::MAX);
    }
}

#[test]
fn tiny_models_answer_as_in_transformers_with_every_instruction_set() {
    for folder in folders() {
        for isa in Isa::available() {
            let mut driver = without_end(on_kernels(folder.clone(), DtypeChoice::F32, isa));
            for case in golden(&folder).cases {
                let answer = driver.greedy(&case.input_ids, case.greedy_ids.len(), usize::MAX);
                assert_eq!(answer, case.greedy_ids, "{} with {isa:?}", folder.display());
            }
        }
    }
}

#[test]
fn tiny_models_answer_as_in_transformers_on_libtorch() {
    for folder in folders() {
        check(on_libtorch(folder.clone(), DtypeChoice::F32), &folder, usize::MAX);
    }
}

#[test]
fn libtorch_answers_the_same_in_one_batch() {
    for folder in folders() {
        check_together(on_libtorch(folder.clone(), DtypeChoice::F32), &folder);
    }
}

#[test]
fn a_prompt_cut_into_chunks_gives_the_same_bits() {
    for folder in folders() {
        let mut driver = without_end(served(folder.clone(), DtypeChoice::F32));
        let longest = golden(&folder).cases.into_iter().max_by_key(|case| case.input_ids.len()).unwrap();
        let whole = driver.prefill(&mut Sequence::new(&longest.input_ids), usize::MAX);
        // Dynamic rotation depends on the length at each chunk, by its nature.
        let chunks: &[usize] = if folder.ends_with("llama-dynamic") { &[] } else { &[1, 3, 7, 16, 17] };
        for chunk in chunks {
            let cut = driver.prefill(&mut Sequence::new(&longest.input_ids), *chunk);
            assert_eq!(whole, cut, "{}, chunks of {chunk}", folder.display());
        }
    }
}

#[test]
fn a_sequence_gets_the_same_bits_alone_and_among_sixteen_others() {
    for dtype in [DtypeChoice::F32, DtypeChoice::BF16, DtypeChoice::F16] {
        let mut driver = served(repository("tests/golden/tiny/qwen3-qknorm"), dtype);
        let prompt: Vec<u32> = (0..23).map(|index| index * 17 % 512).collect();
        let alone = driver.prefill(&mut Sequence::new(&prompt), usize::MAX);
        let mut sequences: Vec<Sequence> = (0..16)
            .map(|index| Sequence::new(&(0..=index * 5).map(|token| token * 29 % 512).collect::<Vec<u32>>()))
            .collect();
        sequences.insert(5, Sequence::new(&prompt));
        let mut work: Vec<_> = sequences
            .iter_mut()
            .map(|sequence| {
                let rows = sequence.tokens.len();
                (sequence, rows, Wanted::LastLogits)
            })
            .collect();
        let logits = driver.step(&mut work).logits;
        let among: Vec<&[f32]> = logits.chunks_exact(alone.len()).collect();
        assert_eq!(among[5], alone, "{dtype:?}");
    }
}

#[test]
fn sequences_that_join_and_leave_answer_as_alone() {
    for folder in folders() {
        let golden = golden(&folder);
        let mut driver = without_end(served(folder.clone(), DtypeChoice::F32));
        // Sixteen more of all lengths around the golden ones.
        let others =
            (0..16).map(|index| (0..index * 3 + 1).map(|token| (token * 31 + index) % 512).collect());
        let mut prompts: Vec<Vec<u32>> = golden.cases.iter().map(|case| case.input_ids.clone()).collect();
        prompts.extend(others);
        let answers = driver.greedy_together(&prompts, golden.cases[0].greedy_ids.len());
        for (case, answer) in golden.cases.iter().zip(answers) {
            assert_eq!(answer, case.greedy_ids, "{}", folder.display());
        }
    }
}

#[test]
fn any_block_size_gives_the_same_answer() {
    let folder = repository("tests/golden/tiny/llama3-tied");
    let case = golden(&folder).cases.pop().unwrap();
    for block_size in [1, 4, 8, 32, 64] {
        let model = super::super::load(&super::on_cpu(folder.clone(), DtypeChoice::F32)).unwrap();
        let mut driver = without_end(Driver::with_blocks(model, 256, block_size));
        let answer = driver.greedy(&case.input_ids, case.greedy_ids.len(), 5);
        assert_eq!(answer, case.greedy_ids, "blocks of {block_size}");
    }
}

#[test]
fn half_precision_stays_close_to_single() {
    for folder in folders() {
        for (dtype, tolerance) in [(DtypeChoice::BF16, 0.05), (DtypeChoice::F16, 0.01)] {
            let case = golden(&folder).cases.pop().unwrap();
            let mut references = [served(folder.clone(), dtype), on_libtorch(folder.clone(), dtype)];
            for driver in &mut references {
                let logits = driver.prefill(&mut Sequence::new(&case.input_ids), usize::MAX);
                for (id, logit) in &case.last_logits_top8 {
                    let ours = logits[*id as usize];
                    assert!(
                        (ours - logit).abs() < tolerance * (1.0 + logit.abs()),
                        "{dtype:?} {}: {ours}, {logit}",
                        folder.display()
                    );
                }
            }
        }
    }
}

#[test]
fn hidden_sums_come_in_the_order_of_the_sequences() {
    let mut driver = served(repository("tests/golden/tiny/llama3-tied"), DtypeChoice::F32);
    let width = driver.model.info().hidden_size;
    let (mut a, mut b, mut c) = (Sequence::new(&[1, 2, 3]), Sequence::new(&[4, 5]), Sequence::new(&[6]));
    let together = driver.step(&mut [
        (&mut a, 3, Wanted::HiddenSum),
        (&mut b, 2, Wanted::LastLogits),
        (&mut c, 1, Wanted::HiddenSum),
    ]);
    assert_eq!(together.hidden_sums.len(), 2 * width);
    assert_eq!(together.logits.len(), driver.model.info().vocabulary_size);
    let alone = driver.step(&mut [(&mut Sequence::new(&[6]), 1, Wanted::HiddenSum)]);
    assert_eq!(together.hidden_sums[width..], alone.hidden_sums);
    let logits = driver.prefill(&mut Sequence::new(&[4, 5]), usize::MAX);
    assert_eq!(argmax(&together.logits), argmax(&logits));
    assert_eq!(together.logits.to_vec(), logits);
}
