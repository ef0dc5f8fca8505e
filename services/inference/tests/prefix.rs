//! The prefix cache with real models: nobody can tell from an answer, and no other tenant from the work it takes.
#![cfg(feature = "torch")]
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail a test, as tests may")]

use std::path::PathBuf;

use futures::StreamExt as _;
use weft_inference::{
    Config,
    engine::{EngineHandle, Event, Finished},
    request::Generate,
    run,
    sampler::{Choice, SamplingParams},
};
use weft_runtime::{Context, Process, RuntimeConfig};

/// Rows that a step may have: a prompt goes in several chunks, and not where blocks end.
const CHUNK: usize = 23;

/// An engine over a small model with random weights.
async fn engine(model: &str, prefix_caching: bool) -> (EngineHandle, Context) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny")).join(model);
    let text = format!(
        "[model]\nfolder = {folder:?}\ndevice = \"cpu\"\nthreads = 2\n[kv_cache]\nblock_size = 16\nmemory = \"4MiB\"\nprefix_caching = {prefix_caching}\n\
         [scheduler]\nmax_sequences = 8\nmax_batched_tokens = {CHUNK}\nmax_waiting = 8\n[limits]\nmax_embed_inputs = 8\n"
    );
    let config: Config = weft_runtime::config::parse(&text, &[]).unwrap();
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let engine = run(config, context.clone()).await.unwrap().engine;
    (engine, context)
}

/// A prompt of 70 tokens, the first 64 of which are four blocks.
fn prompt(end: u32) -> Vec<u32> {
    (0..69).map(|at| (at * 37 + 11) % 500).chain([end]).collect()
}

fn request(end: u32, salt: &str) -> Generate {
    let params = SamplingParams { temperature: 0.8, seed: 7, ..SamplingParams::greedy() };
    let cache_salt = salt.to_owned();
    Generate { params, cache_salt, top_logprobs: Some(5), ..Generate::greedy(prompt(end), 20) }
}

/// Tokens with their likelihoods, and the end.
async fn answer(engine: &EngineHandle, request: Generate) -> (Vec<Choice>, Finished) {
    let (mut choices, mut end) = (Vec::new(), None);
    let mut generation = engine.generate(request, None).unwrap();
    while let Some(event) = generation.next().await {
        match event.unwrap() {
            Event::Token { choice, .. } => choices.push(choice),
            Event::Finished(finished) => end = Some(finished),
            _ => {}
        }
    }
    (choices, end.unwrap())
}

#[tokio::test]
async fn answers_and_likelihoods_are_the_same_to_the_last_bit_with_and_without_cache_hits() {
    for model in ["llama3-tied", "llama-bf16-old-config", "qwen3-qknorm"] {
        let (cached, _context) = engine(model, true).await;
        let (uncached, _context) = engine(model, false).await;
        answer(&cached, request(1, "")).await;
        for end in [1, 2] {
            let (ours, finished) = answer(&cached, request(end, "")).await;
            assert_eq!(finished.cached_prompt_tokens, 64, "{model}");
            let (expected, _) = answer(&uncached, request(end, "")).await;
            assert_eq!(ours, expected, "{model}");
        }
    }
}

#[tokio::test]
async fn the_first_of_several_continuations_is_what_one_alone_would_be() {
    let (engine, _context) = engine("llama3-tied", true).await;
    let (alone, _) = answer(&engine, request(3, "alone")).await;
    let three = Generate { continuations: 3, ..request(3, "together") };
    let mut first = Vec::new();
    let mut generation = engine.generate(three, None).unwrap();
    while let Some(event) = generation.next().await {
        if let Event::Token { index: 0, choice } = event.unwrap() {
            first.push(choice);
        }
    }
    assert_eq!(first, alone);
}

#[tokio::test]
async fn another_salts_prefix_takes_as_much_work_as_one_that_nobody_has_sent() {
    let work = async |first: Generate| {
        let (engine, _context) = engine("llama3-tied", true).await;
        answer(&engine, first).await;
        // The engine hands out an answer's end before it counts the step.
        engine.idle().await;
        let before = engine.status();
        let (_, finished) = answer(&engine, request(9, "tenant a")).await;
        engine.idle().await;
        let after = engine.status();
        let found = after.prefix.hit_tokens - before.prefix.hit_tokens;
        (after.steps - before.steps, after.prefilled - before.prefilled, found, finished.cached_prompt_tokens)
    };
    let unseen = Generate { prompt: vec![5; 70], ..request(9, "tenant b") };
    let foreign = work(request(9, "tenant b")).await;
    assert_eq!(foreign, work(unseen).await);
    assert_eq!(
        foreign,
        (23, 70, 0, 0),
        "four chunks of prompt, the last of which gives a token, and 19 decodes"
    );
    assert_eq!(work(request(8, "tenant a")).await, (20, 6, 64, 64), "its own takes one chunk");
}

#[tokio::test]
async fn a_model_whose_keys_depend_on_the_length_shares_nothing() {
    let (engine, _context) = engine("llama-dynamic", true).await;
    answer(&engine, Generate { prompt: prompt(1)[..20].to_vec(), ..request(1, "") }).await;
    let (_, finished) =
        answer(&engine, Generate { prompt: prompt(1)[..20].to_vec(), ..request(1, "") }).await;
    assert_eq!(finished.cached_prompt_tokens, 0);
}
