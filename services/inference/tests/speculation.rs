//! Guesses with a real model: the same answers and likelihoods, to the last bit, in fewer steps.
#![cfg(feature = "torch")]
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail a test, as tests may")]

use std::path::PathBuf;

use futures::StreamExt as _;
use weft_inference::{
    Config,
    engine::{EngineHandle, Event},
    request::Generate,
    run,
    sampler::{Choice, SamplingParams},
};
use weft_runtime::{Process, RuntimeConfig};

/// An engine over a small model with random weights, which guesses so many tokens.
async fn engine(model: &str, max_tokens: usize) -> EngineHandle {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny")).join(model);
    let text = format!(
        "[model]\nfolder = {folder:?}\ndevice = \"cpu\"\nthreads = 2\n[kv_cache]\nmemory = \"4MiB\"\n\
         [speculation]\nmax_tokens = {max_tokens}\nleast_match = 1\n"
    );
    let config: Config = weft_runtime::config::parse(&text, &[]).unwrap();
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    run(config, context).await.unwrap().engine
}

/// Tokens with their likelihoods, and how many steps they took.
async fn answer(engine: &EngineHandle, request: Generate) -> (Vec<Choice>, u64) {
    engine.idle().await;
    let before = engine.status().steps;
    let mut choices = Vec::new();
    let mut generation = engine.generate(request, None).unwrap();
    while let Some(event) = generation.next().await {
        if let Event::Token { choice, .. } = event.unwrap() {
            choices.push(choice);
        }
    }
    engine.idle().await;
    (choices, engine.status().steps - before)
}

#[tokio::test]
async fn answers_and_likelihoods_are_the_same_to_the_last_bit_with_and_without_guesses() {
    for model in ["llama3-tied", "llama-bf16-old-config", "qwen3-qknorm"] {
        let (plain, guessing) = (engine(model, 0).await, engine(model, 4).await);
        let mut saved = 0;
        for (seed, temperature) in [(1, 0.0), (2, 0.0), (3, 0.3), (4, 1.0)] {
            let prompt = (0..24).map(|at| (at * seed as u32) % 6 + 40).collect();
            let params = SamplingParams { temperature, seed, ..SamplingParams::greedy() };
            let request = Generate { params, top_logprobs: Some(5), ..Generate::greedy(prompt, 60) };
            let (expected, steps) = answer(&plain, request.clone()).await;
            let (ours, fewer) = answer(&guessing, request).await;
            assert_eq!(ours, expected, "{model} {seed}");
            saved += steps - fewer;
        }
        assert!(saved > 0, "{model}: no guess was right");
    }
}
