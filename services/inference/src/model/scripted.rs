//! A model that says what a test wants, and breaks when a test wants.
//!
//! It keeps a real paged cache, of token ids instead of keys and values, and reads every sequence back through its
//! block table. So a scheduler that mixes up blocks, skips a row or forgets to compute one again gets other words.
//!
//! What comes next is a function of the whole sequence so far, prompt and output, and of nothing else.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use super::{
    AdapterBounds, AdapterFault, AdapterLoader, AdapterWeights, Batch, DeviceMemory, LoadedAdapter, Model,
    ModelError, ModelInfo, SequenceRows, StepOutput, Wanted,
};
use crate::{engine::Gate, sampler::Scorer};

/// How much likelier the scripted token is than every other: e^30 to 1.
const CERTAINTY: f32 = 30.0;
/// Bytes of a token in the pretended cache: `kv_cache.memory = "1MiB"` makes 64 blocks of 16.
const KV_BYTES_PER_TOKEN: usize = 1024;

/// What follows a sequence.
type Next = Box<dyn Fn(&[u32]) -> u32 + Send>;

/// The logits of a sequence's last row.
enum Voice {
    /// One token is all but certain.
    Sure(Next),
    /// Every token is possible, more or less, as a hash of the sequence decides.
    Unsure,
}

/// A model that answers from a script. See the module.
pub struct Scripted {
    info: ModelInfo,
    voice: Voice,
    block_size: usize,
    cache: Vec<u32>,
    history: Vec<u32>,
    scorer: Scorer,
    spare: StepOutput,
    controls: Controls,
    memory: Option<DeviceMemory>,
    recorded_rows: Vec<usize>,
}

/// A test's hands on a scripted model that an engine owns. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    /// Stands before every forward pass, warm-up included.
    pub gate: Gate,
    inner: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    failures: AtomicU32,
    panics: AtomicBool,
    not_a_number: AtomicBool,
    passes: AtomicU64,
    rows: AtomicU64,
}

impl Controls {
    /// Makes the next `count` forward passes fail.
    pub fn fail(&self, count: u32) {
        self.inner.failures.store(count, Ordering::SeqCst);
    }

    /// Makes the next forward pass panic.
    pub fn panic(&self) {
        self.inner.panics.store(true, Ordering::SeqCst);
    }

    /// Makes the first logit of the next forward pass that gives any "not a number".
    pub fn spoil_a_logit(&self) {
        self.inner.not_a_number.store(true, Ordering::SeqCst);
    }

    /// Forward passes that were begun, warm-up included.
    pub fn passes(&self) -> u64 {
        self.inner.passes.load(Ordering::SeqCst)
    }

    /// Rows that were computed, warm-up included.
    pub fn rows(&self) -> u64 {
        self.inner.rows.load(Ordering::SeqCst)
    }
}

impl Scripted {
    /// Continues any sequence with what `next` says of it.
    pub fn new(vocabulary_size: usize, next: impl Fn(&[u32]) -> u32 + Send + 'static) -> Self {
        Self::with(vocabulary_size, Voice::Sure(Box::new(next)))
    }

    /// Answers every prompt with `script`, then ends with `end` (the model's end token), over and over.
    ///
    /// Where it is in the script it sees from the sequence: the longest beginning of the script that the sequence ends
    /// with has been said. So a prompt should not end like the script begins.
    pub fn saying(vocabulary_size: usize, script: Vec<u32>, end: u32) -> Self {
        let next = move |sequence: &[u32]| {
            let said = (0..=script.len()).rev().find(|said| sequence.ends_with(&script[..*said]));
            script.get(said.unwrap_or(0)).copied().unwrap_or(end)
        };
        let mut this = Self::new(vocabulary_size, next);
        this.info.end_token_ids = vec![end];
        this
    }

    /// Has no script: every token is possible, and how likely depends on every token before. For sampling.
    pub fn unsure(vocabulary_size: usize) -> Self {
        Self::with(vocabulary_size, Voice::Unsure)
    }

    fn with(vocabulary_size: usize, voice: Voice) -> Self {
        let info = ModelInfo {
            architecture: "Scripted".to_owned(),
            dtype: "f32".to_owned(),
            device: "cpu".to_owned(),
            vocabulary_size,
            context_length: 4096,
            hidden_size: 8,
            kv_bytes_per_token: KV_BYTES_PER_TOKEN,
            ..ModelInfo::default()
        };
        Self {
            info,
            voice,
            block_size: 1,
            cache: Vec::new(),
            history: Vec::new(),
            scorer: Scorer::default(),
            spare: StepOutput::default(),
            controls: Controls::default(),
            memory: None,
            recorded_rows: Vec::new(),
        }
    }

    /// The same on a device with so much memory.
    #[must_use]
    pub fn on_device(mut self, memory: DeviceMemory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// The same, as if it recorded steps of so many rows.
    #[cfg(test)]
    pub(crate) fn recording(mut self, rows: &[usize]) -> Self {
        self.recorded_rows = rows.to_vec();
        self
    }

    /// What it says of itself, to be changed before it is given to an engine.
    pub fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    /// A test's hands on it.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    fn break_if_told(&self) -> Result<(), ModelError> {
        let faults = &self.controls.inner;
        faults.passes.fetch_add(1, Ordering::SeqCst);
        assert!(!faults.panics.swap(false, Ordering::SeqCst), "told to panic");
        let left = faults.failures.load(Ordering::SeqCst);
        if left == 0 {
            return Ok(());
        }
        faults.failures.store(left - 1, Ordering::SeqCst);
        Err(ModelError::Step("told to fail".to_owned()))
    }

    /// Writes the rows of a sequence into the cache.
    fn write(&mut self, batch: &Batch, share: &SequenceRows) {
        for row in share.rows.clone() {
            let position = batch.positions[row] as usize;
            let slot = self.slot(share, position);
            self.cache[slot] = batch.token_ids[row] ^ twist(share);
        }
    }

    /// Reads a whole sequence back from the cache.
    fn read(&mut self, share: &SequenceRows) {
        let mut history = std::mem::take(&mut self.history);
        history.clear();
        let twist = twist(share);
        history.extend((0..share.context_len).map(|at| self.cache[self.slot(share, at)] ^ twist));
        self.history = history;
    }

    fn slot(&self, share: &SequenceRows, position: usize) -> usize {
        share.blocks[position / self.block_size] as usize * self.block_size + position % self.block_size
    }

    /// Appends the logits of what comes after the history.
    fn speak(&self, twist: u32, logits: &mut Vec<f32>) {
        let start = logits.len();
        match &self.voice {
            Voice::Sure(next) => {
                logits.resize(start + self.info.vocabulary_size, 0.0);
                let said = (next(&self.history) + twist) as usize % self.info.vocabulary_size;
                logits[start + said] = CERTAINTY;
            }
            Voice::Unsure => {
                let hash =
                    self.history.iter().fold(u64::from(twist), |hash, token| mix(hash ^ u64::from(*token)));
                logits.extend((0..self.info.vocabulary_size as u64).map(|id| unit(mix(hash ^ id)) * 4.0));
            }
        }
        if self.controls.inner.not_a_number.swap(false, Ordering::SeqCst) {
            logits[start] = f32::NAN;
        }
    }

    /// Judges what follows the wanted rows of a sequence.
    fn score(&mut self, batch: &Batch, share: &SequenceRows, output: &mut StepOutput) {
        let mut logits = Vec::new();
        for scored in batch.scored.iter().filter(|scored| share.rows.contains(&scored.row)) {
            self.read(share);
            self.history.truncate(batch.positions[scored.row] as usize + 1);
            logits.clear();
            self.speak(twist(share), &mut logits);
            output.scores.push(self.scorer.score(&logits, scored.next, scored.top));
        }
    }

    /// Appends the sum of pretended hidden states: of each row, a hash of its token and position.
    fn sum_up(&self, batch: &Batch, share: &SequenceRows, sums: &mut Vec<f32>) {
        let hidden = |row: usize, at: u64| {
            let seen = u64::from(batch.token_ids[row]) << 32 | u64::from(batch.positions[row]);
            unit(mix(seen ^ at << 60))
        };
        let width = self.info.hidden_size as u64;
        sums.extend((0..width).map(|at| share.rows.clone().map(|row| hidden(row, at)).sum::<f32>()));
    }
}

impl Model for Scripted {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        self.memory
    }

    fn recorded_rows(&self) -> &[usize] {
        &self.recorded_rows
    }

    fn allocate_cache(&mut self, blocks: usize, block_size: usize) -> Result<(), ModelError> {
        self.block_size = block_size;
        self.cache = vec![u32::MAX; blocks * block_size];
        Ok(())
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepOutput, ModelError> {
        self.controls.gate.pass();
        self.break_if_told()?;
        self.controls.inner.rows.fetch_add(batch.token_ids.len() as u64, Ordering::SeqCst);
        let mut output = std::mem::take(&mut self.spare);
        let mut logits = std::mem::take(&mut output.logits).into_vec();
        logits.clear();
        output.hidden_sums.clear();
        output.scores.clear();
        for share in &batch.sequences {
            self.write(batch, share);
            self.score(batch, share, &mut output);
            match share.output {
                Wanted::Nothing => {}
                Wanted::LastLogits | Wanted::AllLogits => {
                    for row in share.wanting_logits() {
                        self.read(share);
                        self.history.truncate(batch.positions[row] as usize + 1);
                        self.speak(twist(share), &mut logits);
                    }
                }
                Wanted::HiddenSum => self.sum_up(batch, share, &mut output.hidden_sums),
            }
        }
        output.logits = logits.into();
        Ok(output)
    }

    fn adapter_loader(&self) -> Option<Arc<dyn AdapterLoader>> {
        Some(Arc::new(Twists))
    }

    fn recycle(&mut self, output: StepOutput) {
        self.spare = output;
    }
}

/// Reads adapters of scripted models: a folder with a number in `twist.txt`, which changes all that is said, and all
/// that is kept in the cache. It takes as many bytes as the number says.
#[derive(Debug)]
struct Twists;

impl AdapterLoader for Twists {
    fn load(&self, folder: &Path, bounds: &AdapterBounds) -> Result<LoadedAdapter, AdapterFault> {
        let file = folder.join("twist.txt");
        let unusable = |reason: String| AdapterFault::Unusable(format!("{}: {reason}", file.display()));
        let text = std::fs::read_to_string(&file).map_err(|error| unusable(error.to_string()))?;
        let twist: u32 = text.trim().parse().map_err(|_| unusable("is no number".to_owned()))?;
        let (bytes, left) = (u64::from(twist), bounds.max_bytes);
        if bytes > left {
            return Err(AdapterFault::TooLarge { file: file.display().to_string(), bytes, left });
        }
        let weights = AdapterWeights::new(Twist(twist));
        let (targets, fingerprint) = (vec!["q_proj".to_owned()], format!("{twist:x}"));
        Ok(LoadedAdapter { weights, rank: 1, targets, bytes, fingerprint })
    }
}

/// What an adapter of a scripted model does.
struct Twist(u32);

/// The number of a sequence's adapter; 0 where it has none.
fn twist(share: &SequenceRows) -> u32 {
    share.adapter.as_ref().and_then(|adapter| adapter.get::<Twist>()).map_or(0, |twist| twist.0)
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Scripted").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Scatters the bits of a number (the finisher of splitmix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// A number in `[-1, 1)` from the upper bits of a hash.
fn unit(hash: u64) -> f32 {
    (hash >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}
