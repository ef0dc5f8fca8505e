//! What a step costs beside the model: scheduling and handing out at 64 sequences, and the sampler by kind of request.
//!
//! `cargo run -p weft-inference --no-default-features --example overhead`
#![expect(clippy::print_stdout, reason = "a report for a person")]

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use weft_inference::{
    Config,
    model::{Model, scripted::Scripted},
    request::Generate,
    sampler::{Chooser, Sampler, SamplingParams},
    start_with,
};
use weft_runtime::{BoxError, Process, RuntimeConfig};

/// SmolLM2's.
const VOCABULARY: usize = 49_152;
const SEQUENCES: usize = 64;
const TOKENS: usize = 40;
/// Repetitions, of which the quickest count: the machine does other things beside.
const TIMES: usize = 200;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    println!("sampler, one choice among {VOCABULARY} logits, mean of the quickest tenth:");
    for (name, params, top_logprobs) in kinds() {
        println!("  {name:<34} {:>8.1} us", choice_time(params, top_logprobs).as_secs_f64() * 1e6);
    }
    println!("engine, {SEQUENCES} sequences of {TOKENS} tokens, mean of a step in the quickest of 8 runs:");
    let sampled = SamplingParams { temperature: 0.8, top_p: 0.95, top_k: 40, ..SamplingParams::greedy() };
    for (name, params) in [("greedy", SamplingParams::greedy()), ("top-k 40, top-p 0.95", sampled)] {
        let mut quickest = [f64::INFINITY; 2];
        for _ in 0..8 {
            let times = step_times(params.clone()).await?;
            quickest = std::array::from_fn(|part| quickest[part].min(times[part]));
        }
        let [schedule, sample] = quickest;
        println!(
            "  {name:<24} schedule {:>7.1} us   sample and hand out {:>7.1} us",
            schedule * 1e6,
            sample * 1e6
        );
    }
    Ok(())
}

fn kinds() -> Vec<(&'static str, SamplingParams, Option<usize>)> {
    let plain = SamplingParams { temperature: 1.0, ..SamplingParams::greedy() };
    vec![
        ("greedy", SamplingParams::greedy(), None),
        ("greedy, 5 logprobs", SamplingParams::greedy(), Some(5)),
        (
            "greedy, penalties on 512 tokens",
            SamplingParams { repetition_penalty: 1.1, ..SamplingParams::greedy() },
            None,
        ),
        ("temperature 1", plain.clone(), None),
        ("top-k 40", SamplingParams { top_k: 40, ..plain.clone() }, None),
        ("top-k 40, top-p 0.95", SamplingParams { top_k: 40, top_p: 0.95, ..plain.clone() }, None),
        ("top-p 0.9", SamplingParams { top_p: 0.9, ..plain.clone() }, None),
        ("top-k 1000", SamplingParams { top_k: 1000, ..plain.clone() }, None),
        ("top-p 0.3", SamplingParams { top_p: 0.3, ..plain.clone() }, None),
        ("min-p 0.1", SamplingParams { min_p: 0.1, ..plain.clone() }, None),
        (
            "top-p 0.99 at temperature 5 (flat)",
            SamplingParams { temperature: 5.0, top_p: 0.99, ..plain },
            None,
        ),
    ]
}

fn choice_time(params: SamplingParams, top_logprobs: Option<usize>) -> Duration {
    let prompt: Vec<u32> = (0..512).map(|at| at * 7).collect();
    let mut chooser = Chooser::new(params, top_logprobs, &prompt);
    let mut sampler = Sampler::default();
    let logits = peaked_logits();
    let mut times: Vec<Duration> = (0..TIMES)
        .map(|position| {
            let mut logits = logits.clone();
            let began = Instant::now();
            sampler
                .choose(&mut logits, &mut chooser, weft_inference::sampler::Allowed::default(), position)
                .expect("a token is possible");
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[..TIMES / 10].iter().sum::<Duration>() / (TIMES / 10) as u32
}

/// Roughly what a language model gives: a bell of logits with a few far above it.
fn peaked_logits() -> Vec<f32> {
    let noise = |id: u32| (id.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
    let bell = |id: u32| (0..6).map(|part| noise(id * 6 + part)).sum::<f32>() - 3.0;
    (0..VOCABULARY as u32).map(|id| bell(id) * 3.0 + if id % 5_000 == 17 { 9.0 } else { 0.0 }).collect()
}

/// Mean seconds of a step's schedule and sample parts, by the engine's own metrics.
async fn step_times(params: SamplingParams) -> Result<[f64; 2], BoxError> {
    let config: Config = weft_runtime::config::parse("[model]\nfolder = \"scripted\"\n", &[])?;
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let model = || -> Result<Box<dyn Model>, BoxError> { Ok(Box::new(Scripted::unsure(VOCABULARY))) };
    let engine = start_with(config, context.clone(), model).await?.engine;
    let generations = (0..SEQUENCES).map(|index| {
        let request = Generate { params: params.clone(), ..Generate::greedy(vec![index as u32; 32], TOKENS) };
        engine.generate(request, None)
    });
    let generations = generations.collect::<Result<Vec<_>, _>>()?;
    futures::future::join_all(generations.into_iter().map(|generation| generation.count())).await;
    let page = context.metrics.encode();
    Ok(["schedule", "sample"].map(|part| {
        let number = |what: &str| {
            let line = format!("weft_step_seconds_{what}{{part=\"{part}\"}} ");
            page.lines().find_map(|found| found.strip_prefix(&line)?.parse::<f64>().ok()).unwrap_or(f64::NAN)
        };
        number("sum") / number("count")
    }))
}
