//! What a long prompt does to streams that run: the times between their tokens, alone and beside it.
//!
//! ```text
//! cargo run --release -p weft-inference --example interference -- models/smollm2-135m-instruct [PROMPT_TOKENS]
//! ```
//!
//! Eight streams run; then a prompt arrives, and the streams' times between tokens are told apart by whether it was
//! being computed. Once as the scheduler is configured, once with steps that no time bounds.
#![expect(clippy::print_stdout, reason = "a report for a person")]

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use weft_inference::{
    Config,
    engine::{EngineHandle, Event, Generation},
    model::{
        Model,
        torch::{DeviceChoice, DtypeChoice, TorchConfig, load},
    },
    request::Generate,
    sampler::SamplingParams,
    start_with,
    stop::StopRules,
};
use weft_runtime::{BoxError, Process, RuntimeConfig};

const STREAMS: u32 = 8;
/// Tokens of each stream before the prompt arrives: what they take is the undisturbed value.
const ALONE: usize = 48;
/// Tokens of a stream at most: it is dropped when the prompt is done.
const MOST: usize = 1500;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: interference FOLDER [PROMPT_TOKENS]")?;
    let tokens = arguments.next().map_or(Ok(4000), |tokens| tokens.parse())?;
    for (name, stretch) in [("as configured", ""), ("unbounded", "step_stretch = 1000.0\n")] {
        let text = format!("[model]\nfolder = \"{folder}\"\n[scheduler]\n{stretch}");
        let found = measure(weft_runtime::config::parse(&text, &[])?, tokens).await?;
        let [alone, beside] = [&found.alone, &found.beside].map(|gaps| (at(gaps, 0.5), at(gaps, 0.99)));
        println!("{name}: {STREAMS} streams, ms between tokens, beside a prompt of {tokens} tokens");
        println!("  alone   p50 {:>7.1}  p99 {:>7.1}", alone.0, alone.1);
        println!(
            "  beside  p50 {:>7.1}  p99 {:>7.1}  p99 ratio {:.2}",
            beside.0,
            beside.1,
            beside.1 / alone.1
        );
        println!("  first token of the prompt after {:.2?}", found.first_token);
    }
    Ok(())
}

struct Found {
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    first_token: Duration,
}

async fn measure(config: Config, tokens: usize) -> Result<Found, BoxError> {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let torch = TorchConfig {
        folder: config.model.folder.clone(),
        dtype: DtypeChoice::Auto,
        weights: None,
        device: DeviceChoice::Auto,
        threads: 0,
    };
    let model = move || -> Result<Box<dyn Model>, BoxError> { Ok(load(&torch)?) };
    let engine = start_with(config, context, model).await?.engine;
    // One prompt that nobody waits for: the engine measures what a row costs when it has nothing else to do.
    first_token(engine.generate(generate(99, 300, 1), None)?).await;
    let (begin, arrives) = tokio::sync::watch::channel(false);
    let streams: Vec<_> = (0..STREAMS)
        .map(|seed| {
            Ok(tokio::task::unconstrained(times(
                engine.generate(generate(seed, 32, MOST), None)?,
                arrives.clone(),
            )))
        })
        .collect::<Result<_, BoxError>>()?;
    let disturb = disturb(&engine, begin, tokens);
    let (streams, window) = tokio::join!(futures::future::join_all(streams), disturb);
    let (from, to) = window?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for gap in streams.iter().flat_map(|times| times.windows(2)) {
        if gap[0] >= from && gap[1] <= to {
            beside.push(gap[1] - gap[0]);
        } else if gap[1] <= from {
            alone.push(gap[1] - gap[0]);
        }
    }
    Ok(Found { alone, beside, first_token: to - from })
}

/// When each token of a stream came, until it is told to stop. The start is left out: others were being prefilled then.
async fn times(mut stream: Generation, mut stop: tokio::sync::watch::Receiver<bool>) -> Vec<Instant> {
    let mut times = Vec::new();
    loop {
        tokio::select! {
            event = stream.next() => match event {
                Some(Ok(Event::Token { .. })) => times.push(Instant::now()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    times.split_off(8.min(times.len()))
}

/// Sends the long prompt once the streams have run for a while. Answers when it came and when it had its first token.
async fn disturb(
    engine: &EngineHandle,
    stop: tokio::sync::watch::Sender<bool>,
    tokens: usize,
) -> Result<(Instant, Instant), BoxError> {
    let steps = engine.status().steps;
    while engine.status().steps < steps + ALONE as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let from = Instant::now();
    first_token(engine.generate(generate(77, tokens, 1), None)?).await;
    let to = Instant::now();
    stop.send_replace(true);
    Ok((from, to))
}

async fn first_token(mut generation: Generation) {
    while let Some(Ok(event)) = generation.next().await {
        if matches!(event, Event::Token { .. }) {
            return;
        }
    }
}

/// A greedy generation whose prompt shares nothing with those of other seeds.
fn generate(seed: u32, prompt: usize, tokens: usize) -> Generate {
    Generate {
        prompt: (0..prompt as u32).map(|at| 1000 + (seed * 7919 + at * 104_729) % 40_000).collect(),
        params: SamplingParams {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 1,
        },
        rules: StopRules::new(tokens, 0, Vec::new()),
        top_logprobs: None,
        prompt_top_logprobs: None,
        priority: 0,
        tenant: Default::default(),
        cache_salt: String::new(),
        continuations: 1,
        grammar: None,
        adapter: None,
    }
}

/// A quantile of the gaps, in milliseconds.
fn at(gaps: &[Duration], part: f64) -> f64 {
    let mut gaps: Vec<f64> = gaps.iter().map(|gap| gap.as_secs_f64() * 1e3).collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get((gaps.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}
