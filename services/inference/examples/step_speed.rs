//! How fast a model folder steps on this machine, without scheduler, sampler or wire:
//!
//! ```text
//! cargo run --release -p weft-inference --example step_speed -- models/smollm2-135m-instruct [auto|f32|bf16|f16] [threads] [context] [int8]
//! ```
//!
//! The last word is the type of keys and values, where it is not that of the weights. Decode steps are at about 160 tokens of context, or at as many as told; each figure is the median of its runs.

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use tokio::time::Instant;
use weft_inference::model::{
    Batch, Model, SequenceRows, Wanted,
    torch::{CacheChoice, DeviceChoice, DtypeChoice, TorchConfig, load},
};

/// Positions of a block.
const BLOCK: usize = 32;

/// Rows of the decode steps.
const ROWS: [usize; 4] = [1, 8, 32, 64];

/// Sequences that there is room for.
const MOST: usize = ROWS[ROWS.len() - 1];

/// Tokens in the cache before decode steps are timed.
const CONTEXT: usize = 144;

/// Tokens of the prompt that is timed.
const PROMPT: usize = 512;

/// Timed decode steps.
const STEPS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("usage: step_speed FOLDER [auto|f32|bf16|f16|int8|int4-g32|…] [THREADS] [CONTEXT] [int8]")?;
    let (dtype, weights) = match arguments.next().as_deref() {
        None | Some("auto") => (DtypeChoice::Auto, None),
        Some("f32") => (DtypeChoice::F32, None),
        Some("bf16") => (DtypeChoice::BF16, None),
        Some("f16") => (DtypeChoice::F16, None),
        Some(format) => (DtypeChoice::Auto, Some(format.parse()?)),
    };
    let threads = arguments.next().map_or(Ok(0), |threads| threads.parse())?;
    let context = arguments.next().map_or(Ok(CONTEXT), |context| context.parse())?;
    let cache = match arguments.next().as_deref() {
        None => CacheChoice::AsWeights,
        Some("int8") => CacheChoice::Int8,
        Some(other) => {
            return Err(format!("keys and values in {other}? only in int8, or as the weights").into());
        }
    };
    let blocks = (context + STEPS).max(PROMPT).div_ceil(BLOCK);
    let start = Instant::now();
    let device = DeviceChoice::Auto;
    let mut model = load(&TorchConfig { folder: folder.into(), dtype, cache, weights, device, threads })?;
    model.allocate_cache(MOST * blocks, BLOCK)?;
    let mut steps = Steps { model: &mut *model, blocks, context };
    let mut out = io::stdout().lock();
    let info = steps.model.info();
    writeln!(
        out,
        "{} {} on {}, loaded in {:.2?}",
        info.architecture,
        info.dtype,
        info.device,
        start.elapsed()
    )?;
    for rows in ROWS {
        let step = steps.decode(rows)?.as_secs_f64();
        writeln!(
            out,
            "decode {rows:>3} rows: {:>8.1} steps/s {:>8.1} tokens/s",
            1.0 / step,
            rows as f64 / step
        )?;
    }
    let prefill = steps.prefill()?.as_secs_f64();
    let (ms, speed) = (1e3 * prefill, PROMPT as f64 / prefill);
    writeln!(out, "prefill {PROMPT} tokens: {ms:>6.1} ms  {speed:>8.1} tokens/s")?;
    Ok(())
}

/// Takes steps of a model.
struct Steps<'a> {
    model: &'a mut dyn Model,
    /// Of each sequence: room for a prompt and the steps after it.
    blocks: usize,
    /// Tokens in the cache before decode steps are timed.
    context: usize,
}

impl Steps<'_> {
    /// Median time of a step of `rows` sequences.
    fn decode(&mut self, rows: usize) -> Result<Duration, Box<dyn Error>> {
        for sequence in 0..rows {
            for from in (0..self.context).step_by(PROMPT) {
                self.model.forward(&self.batch(&[sequence], from..self.context.min(from + PROMPT)))?;
            }
        }
        let sequences: Vec<usize> = (0..rows).collect();
        let mut times = Vec::new();
        for position in self.context..self.context + STEPS {
            let batch = self.batch(&sequences, position..position + 1);
            let start = Instant::now();
            self.model.forward(&batch)?;
            times.push(start.elapsed());
        }
        Ok(median(times))
    }

    /// Median time of a prompt.
    fn prefill(&mut self) -> Result<Duration, Box<dyn Error>> {
        let mut times = Vec::new();
        for _ in 0..5 {
            let batch = self.batch(&[0], 0..PROMPT);
            let start = Instant::now();
            self.model.forward(&batch)?;
            times.push(start.elapsed());
        }
        Ok(median(times))
    }

    /// The same positions of some sequences, each of which wants logits.
    fn batch(&self, sequences: &[usize], positions: std::ops::Range<usize>) -> Batch {
        let mut batch = Batch::default();
        for sequence in sequences {
            let first = batch.token_ids.len();
            batch
                .token_ids
                .extend(positions.clone().map(|position| ((position * 31 + sequence * 17) % 100) as u32));
            batch.positions.extend(positions.clone().map(|position| position as u32));
            batch.sequences.push(SequenceRows {
                rows: first..batch.token_ids.len(),
                blocks: (0..self.blocks).map(|block| (block * MOST + sequence) as u32).collect(),
                context_len: positions.end,
                adapter: None,
                output: Wanted::LastLogits,
            });
        }
        batch
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
