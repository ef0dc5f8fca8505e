//! The engine alone, in process, for `tests/bench`: token ids in, the time of every token out, one JSON line each.
//!
//! ```text
//! cargo run --release -p weft-inference --example engine_bench -- CONFIG.toml
//! ```
//!
//! Says `{"ready": true, …}` once the model is warm. Each line that it reads is a [`Round`]; each is answered with a
//! [`Found`]. Ends with its input.
#![expect(clippy::print_stdout, reason = "a program reads it")]

use std::{collections::BTreeMap, fs, io, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use weft_inference::{
    Config, Running,
    engine::Event,
    request::{Generate, GenerateRequest},
    run,
    sampler::SamplingRequest,
};
use weft_runtime::{BoxError, Process, RuntimeConfig};

/// Requests that run together.
#[derive(Debug, Deserialize)]
struct Round {
    requests: Vec<Request>,
    /// How many run at once; the next begins when one ends.
    in_flight: usize,
}

/// A greedy generation past end tokens.
#[derive(Debug, Deserialize)]
struct Request {
    prompt: Vec<u32>,
    max_tokens: u32,
    /// Seconds after the round began.
    #[serde(default)]
    delay_s: f64,
}

/// When what came, in seconds since the round began.
#[derive(Debug, Serialize)]
struct Found {
    wall_s: f64,
    /// In the order of the requests.
    requests: Vec<Times>,
    /// Seconds of each part of a step in this round, by the engine's own metrics.
    step_s: BTreeMap<String, f64>,
    steps: u64,
}

/// One request's.
#[derive(Debug, Serialize)]
struct Times {
    sent_s: f64,
    tokens_s: Vec<f64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let file = std::env::args().nth(1).ok_or("usage: engine_bench CONFIG.toml")?;
    let config: Config = weft_runtime::config::parse(&fs::read_to_string(&file)?, &[])?;
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let running = run(config, context.clone()).await?;
    println!("{}", serde_json::json!({ "ready": true, "weft": env!("CARGO_PKG_VERSION") }));
    for line in io::stdin().lines() {
        let round: Round = serde_json::from_str(&line?)?;
        let before = parts(&context.metrics.encode());
        let steps = running.engine.status().steps;
        let mut found = measure(&running, round).await?;
        found.step_s = parts(&context.metrics.encode());
        found.step_s.iter_mut().for_each(|(part, sum)| *sum -= before.get(part).copied().unwrap_or(0.0));
        found.steps = running.engine.status().steps - steps;
        println!("{}", serde_json::to_string(&found)?);
    }
    // The engine stays until the process ends: its thread would give memory back to a libtorch that has ended before it.
    std::mem::forget(running);
    Ok(())
}

async fn measure(running: &Running, round: Round) -> Result<Found, BoxError> {
    let began = Instant::now();
    let in_flight = round.in_flight.max(1);
    let calls = round.requests.into_iter().enumerate().map(|(index, request)| async move {
        sleep_until(began + Duration::from_secs_f64(request.delay_s)).await;
        Ok::<_, BoxError>((index, generate(running, request, began).await?))
    });
    let mut found: Vec<(usize, Times)> =
        stream::iter(calls).buffer_unordered(in_flight).try_collect().await?;
    let wall_s = began.elapsed().as_secs_f64();
    running.engine.idle().await;
    found.sort_by_key(|(index, _)| *index);
    let requests = found.into_iter().map(|(_, times)| times).collect();
    Ok(Found { wall_s, requests, step_s: BTreeMap::new(), steps: 0 })
}

async fn generate(running: &Running, request: Request, began: Instant) -> Result<Times, BoxError> {
    let expected = request.max_tokens as usize;
    let request = checked(running, request)?;
    let mut times = Times { sent_s: began.elapsed().as_secs_f64(), tokens_s: Vec::with_capacity(expected) };
    let mut events = running.engine.generate(request, None)?;
    while let Some(event) = events.next().await {
        if let Event::Token { .. } = event? {
            times.tokens_s.push(began.elapsed().as_secs_f64());
        }
    }
    if times.tokens_s.len() == expected {
        return Ok(times);
    }
    Err(format!("{} tokens came, {expected} were asked for", times.tokens_s.len()).into())
}

fn checked(running: &Running, request: Request) -> Result<Generate, BoxError> {
    let request = GenerateRequest {
        prompt: request.prompt,
        sampling: SamplingRequest { temperature: Some(0.0), ..SamplingRequest::default() },
        max_tokens: Some(request.max_tokens),
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    Ok(request.check(&running.served, || 0)?)
}

/// Seconds so far of each part of a step, out of the metrics page.
fn parts(page: &str) -> BTreeMap<String, f64> {
    let part = |line: &str| {
        let (name, sum) = line.strip_prefix("weft_step_seconds_sum{part=\"")?.split_once("\"} ")?;
        Some((name.to_owned(), sum.parse().ok()?))
    };
    page.lines().filter_map(part).collect()
}
