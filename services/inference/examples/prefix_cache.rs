//! What the prefix cache is worth on this machine, and what its timing tells other tenants. In process, without the wire:
//!
//! ```text
//! cargo run --release -p weft-inference --example prefix_cache -- models/smollm2-135m-instruct [rounds]
//! ```
//!
//! First the time to the first token of a prompt of 512 + 32 tokens whose prefix nobody has sent, another salt has sent,
//! or the same salt has sent; the three in turn, so that whatever else the machine does meets all of them. Then eight
//! streams that bring one prefix at once (64 tokens each), with and without the cache, and once it is warm.

use std::{
    io::{self, Write},
    time::Duration,
};

use futures::{StreamExt as _, future::join_all};
use tokio::time::Instant;
use weft_inference::{
    Config,
    engine::{EngineHandle, Event, Generation},
    model::torch::{CacheChoice, DeviceChoice, DtypeChoice, TorchConfig, load},
    request::Generate,
    start_with,
};
use weft_runtime::{BoxError, Process, RuntimeConfig};

/// Tokens that prompts share.
const PREFIX: u32 = 512;
/// Tokens of each prompt after that.
const SUFFIX: u32 = 32;
/// Streams that arrive together.
const STREAMS: u32 = 8;
/// Tokens that each of them generates.
const OUTPUT: usize = 64;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: prefix_cache FOLDER [ROUNDS]")?;
    let rounds: u32 = arguments.next().map_or(Ok(15), |rounds| rounds.parse())?;
    let mut out = io::stdout().lock();
    let engine = engine(&folder, true).await?;
    for (name, times) in ["unseen", "another salt's", "its own"].iter().zip(prefixes(&engine, rounds).await?)
    {
        writeln!(out, "first token, {name} prefix: {}", spread(times))?;
    }
    writeln!(out, "{STREAMS} streams at once, {PREFIX} + {SUFFIX} in, {OUTPUT} out:")?;
    let without = self::engine(&folder, false).await?;
    for round in 0..rounds.div_ceil(5) {
        writeln!(out, "  without the cache: {}", herd(&without, 900 + round).await?)?;
        writeln!(out, "  with it, cold:     {}", herd(&engine, 900 + round).await?)?;
        writeln!(out, "  with it, warm:     {}", herd(&engine, 900 + round).await?)?;
    }
    let prefix = engine.status().prefix;
    writeln!(out, "{} of {} prompt tokens were found", prefix.hit_tokens, prefix.queried_tokens)?;
    Ok(())
}

async fn engine(folder: &str, prefix_caching: bool) -> Result<EngineHandle, BoxError> {
    let text = format!("[model]\nfolder = {folder:?}\n[kv_cache]\nprefix_caching = {prefix_caching}\n");
    let config: Config = weft_runtime::config::parse(&text, &[])?;
    let folder = folder.into();
    let torch = TorchConfig {
        folder,
        dtype: DtypeChoice::Auto,
        cache: CacheChoice::AsWeights,
        weights: None,
        device: DeviceChoice::Auto,
        threads: 0,
    };
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    Ok(start_with(config, context, move || Ok(load(&torch)?)).await?.engine)
}

/// A prompt whose beginning and end are chosen apart: numbers below any vocabulary, no two alike for long.
fn prompt(prefix: u32, suffix: u32) -> Vec<u32> {
    let noise = |text: u32, at: u32| (text.wrapping_mul(0x9e37_79b9) ^ at.wrapping_mul(0x85eb_ca6b)) >> 19;
    let beginning = (0..PREFIX).map(|at| noise(prefix, at));
    beginning.chain((0..SUFFIX).map(|at| noise(suffix.wrapping_add(1 << 20), at))).collect()
}

fn request(prompt: Vec<u32>, salt: &str, tokens: usize) -> Generate {
    Generate { cache_salt: salt.to_owned(), ..Generate::greedy(prompt, tokens) }
}

/// Until the first token, and until the end.
async fn times(began: Instant, mut generation: Generation) -> Result<[Duration; 2], BoxError> {
    let mut first = None;
    while let Some(event) = generation.next().await {
        if let Event::Token { .. } = event? {
            first.get_or_insert_with(|| began.elapsed());
        }
    }
    Ok([first.ok_or("no token came")?, began.elapsed()])
}

/// Times to the first token, of each kind of prefix.
async fn prefixes(engine: &EngineHandle, rounds: u32) -> Result<[Vec<Duration>; 3], BoxError> {
    let mut kinds = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        let seen = 2 * round;
        let ask = async |prefix, suffix, salt: &str| {
            let began = Instant::now();
            times(began, engine.generate(request(prompt(prefix, suffix), salt, 1), None)?).await
        };
        ask(seen, 0, "a").await?;
        kinds[0].push(ask(seen + 1, 1, "b").await?[0]);
        kinds[1].push(ask(seen, 2, "b").await?[0]);
        kinds[2].push(ask(seen, 3, "a").await?[0]);
    }
    Ok(kinds)
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("p10 {:.1?}, p50 {:.1?}, p90 {:.1?} of {}", at(10), at(50), at(90), times.len())
}

/// Streams that arrive together with one prefix.
async fn herd(engine: &EngineHandle, prefix: u32) -> Result<String, BoxError> {
    let began = Instant::now();
    let streams = (0..STREAMS)
        .map(|suffix| engine.generate(request(prompt(prefix, suffix), "herd", OUTPUT), None))
        .map(|generation| async move { times(began, generation?).await });
    let times = join_all(streams).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let rate = (STREAMS as usize * OUTPUT) as f64 / began.elapsed().as_secs_f64();
    Ok(format!("{rate:.0} tok/s, first token {}", spread(times.iter().map(|both| both[0]).collect())))
}
