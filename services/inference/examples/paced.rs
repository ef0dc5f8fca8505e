//! The real inference service with a model that computes nothing and takes a fixed time for each step: what the rooms around
//! it cost, and how they behave when it is full, can then be measured without the noise of a real one.
//!
//! `cargo run -p weft-inference --example paced -- --config deploy/config/inference.toml`, with `WEFT__PACED__STEP=20ms`.

use std::{process::ExitCode, time::Duration};

use weft_inference::{
    Config,
    model::{Batch, Model, ModelError, ModelInfo, StepOutput, scripted::Scripted},
    start_with,
};
use weft_runtime::{
    BoxError, Context, Services,
    config::{FromConfig, Section, any},
};

/// SmolLM2's, whose tokenizer stands beside it.
const VOCABULARY: usize = 49_152;
/// " a little more" in SmolLM2's ids, over and over.
const WORDS: [u32; 3] = [253, 1838, 540];

fn main() -> ExitCode {
    weft_runtime::main("inference", start)
}

/// The service's own configuration, and `[paced]`.
struct Paced {
    config: Config,
    pace: Pace,
}

/// How long steps take.
#[derive(Clone, Copy)]
struct Pace {
    /// Each step.
    step: Duration,
    /// Each row of a prompt in it.
    prompt_row: Duration,
}

impl FromConfig for Paced {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self { pace: section.section("paced"), config: Config::from_config(section) }
    }
}

impl FromConfig for Pace {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            step: section.value("step", Duration::from_millis(20), any()),
            prompt_row: section.value("prompt_row", Duration::ZERO, any()),
        }
    }
}

async fn start(paced: Paced, context: Context) -> Result<Services, BoxError> {
    let Paced { config, pace } = paced;
    let running = start_with(config, context, move || {
        let scripted = Scripted::new(VOCABULARY, |sequence| WORDS[sequence.len() % WORDS.len()]);
        Ok(Box::new(Slow { scripted, pace }))
    });
    Ok(running.await?.services)
}

/// A scripted model that takes its time.
struct Slow {
    scripted: Scripted,
    pace: Pace,
}

impl Model for Slow {
    fn info(&self) -> &ModelInfo {
        self.scripted.info()
    }

    fn allocate_cache(&mut self, blocks: usize, block_size: usize) -> Result<(), ModelError> {
        self.scripted.allocate_cache(blocks, block_size)
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepOutput, ModelError> {
        let prompts = batch.sequences.iter().map(|share| share.rows.len()).filter(|rows| *rows > 1);
        let rows = u32::try_from(prompts.sum::<usize>()).unwrap_or(u32::MAX);
        let begun = tokio::time::Instant::now();
        let output = self.scripted.forward(batch);
        std::thread::sleep((self.pace.step + self.pace.prompt_row * rows).saturating_sub(begun.elapsed()));
        output
    }

    fn recycle(&mut self, output: StepOutput) {
        self.scripted.recycle(output);
    }
}
