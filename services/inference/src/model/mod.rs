//! What the engine asks of a model: one forward pass over the rows of many sequences.

mod adapter;
pub mod scripted;
#[cfg(feature = "torch")]
pub mod torch;
mod values;

use std::{ops::Range, sync::Arc};

pub use adapter::{AdapterBounds, AdapterFault, AdapterLoader, AdapterWeights, LoadedAdapter};
pub use values::Values;

use crate::sampler::{Logprobs, SamplingError};

/// Index of a block in the KV cache.
pub type BlockId = u32;

/// The work of one step: the rows of all sequences one after another, nothing padded.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// `[rows]` token ids.
    pub token_ids: Vec<u32>,
    /// `[rows]` position of each row within its sequence.
    pub positions: Vec<u32>,
    /// The sequences, in the order of their rows.
    pub sequences: Vec<SequenceRows>,
    /// Rows after which the likelihood of a given token is wanted, in ascending order.
    pub scored: Vec<ScoredRow>,
}

/// A row after which the likelihood of a given token is wanted, under the model's own distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoredRow {
    /// Which row of the batch.
    pub row: usize,
    /// The token that follows it.
    pub next: u32,
    /// How many of the likeliest tokens are wanted beside it.
    pub top: usize,
}

/// One sequence's share of a [`Batch`].
#[derive(Clone, Debug)]
pub struct SequenceRows {
    /// Its rows: several in prefill, one in decode.
    pub rows: Range<usize>,
    /// Its block table. Covers positions `0..context_len`; position `p` lives in `blocks[p / block_size]`, slot `p % block_size`.
    pub blocks: Vec<BlockId>,
    /// Tokens in the cache once this step has written its rows.
    pub context_len: usize,
    /// The adapter that its rows go through.
    pub adapter: Option<AdapterWeights>,
    /// What the engine wants to know of it.
    pub output: Wanted,
}

impl SequenceRows {
    /// Its rows whose logits are wanted.
    pub fn wanting_logits(&self) -> Range<usize> {
        match self.output {
            Wanted::LastLogits => self.rows.end - 1..self.rows.end,
            Wanted::AllLogits => self.rows.clone(),
            Wanted::Nothing | Wanted::HiddenSum => self.rows.end..self.rows.end,
        }
    }
}

/// What the engine wants of a sequence after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: a chunk of a prompt that goes on in a later step.
    Nothing,
    /// The logits of its last row.
    LastLogits,
    /// The logits of all its rows: of a token, and of what was guessed to follow.
    AllLogits,
    /// The sum over its rows of the last hidden states (after the final norm): embeddings by mean pooling.
    HiddenSum,
}

/// What a step produced, in the order of [`Batch::sequences`].
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// For each row of [`SequenceRows::wanting_logits`]: `vocabulary_size` f32 logits, one after another.
    pub logits: Values,
    /// For each sequence that wanted [`Wanted::HiddenSum`]: `hidden_size` f32 values, one after another.
    pub hidden_sums: Vec<f32>,
    /// For each of [`Batch::scored`], in its order. An error where a logit of the row is not a number.
    pub scores: Vec<Result<Logprobs, SamplingError>>,
}

/// What a model says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// `architectures[0]` of its config.json.
    pub architecture: String,
    /// The type of its weights in memory: `f32`, `bf16` or `f16`, or their format in fewer bits: `int8`, `int4-g32`.
    pub dtype: String,
    /// The type of keys and values in memory: `f32`, `bf16`, `f16` or `int8`.
    pub kv_dtype: String,
    /// Where it runs: `cpu` or `cuda:N`.
    pub device: String,
    /// Logits per position.
    pub vocabulary_size: usize,
    /// Longest sequence that its positions allow.
    pub context_length: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Ids that end a generation (generation_config.json, else config.json).
    pub end_token_ids: Vec<u32>,
    /// Defaults of generation_config.json for fields that a request leaves unset.
    pub default_temperature: Option<f32>,
    /// As above.
    pub default_top_p: Option<f32>,
    /// As above.
    pub default_top_k: Option<u32>,
    /// As above.
    pub default_repetition_penalty: Option<f32>,
    /// SHA-256 of the folder's tokenizer.json in lower-case hex; empty if it has none.
    pub tokenizer_fingerprint: String,
    /// Weights, counted.
    pub parameters: u64,
    /// Whether a token's keys depend on how long its sequence was when they were computed: then no two sequences can
    /// share them.
    pub keys_depend_on_length: bool,
    /// Bytes that one token takes in the KV cache, all layers, keys and values.
    pub kv_bytes_per_token: usize,
}

/// Memory of a device, in bytes, whoever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What nobody has.
    pub free: u64,
    /// What there is.
    pub total: u64,
}

/// A model, owned by the engine's thread.
pub trait Model {
    /// What it is.
    fn info(&self) -> &ModelInfo;
    /// Makes room for `blocks` blocks of `block_size` tokens. Called once, before the first step.
    ///
    /// # Errors
    /// The memory is not to be had.
    fn allocate_cache(&mut self, blocks: usize, block_size: usize) -> Result<(), ModelError>;
    /// Writes keys and values of the rows into the cache, and computes what each sequence wants.
    ///
    /// # Errors
    /// The backend failed; the cache content of the batch's sequences is then unknown. Blocks are only ever written where
    /// the batch's rows stand.
    fn forward(&mut self, batch: &Batch) -> Result<StepOutput, ModelError>;
    /// What reads adapters for it, on any thread; nothing where it takes none.
    fn adapter_loader(&self) -> Option<Arc<dyn AdapterLoader>> {
        None
    }
    /// How much memory its device has; nothing where that is the machine's own.
    fn device_memory(&self) -> Option<DeviceMemory> {
        None
    }
    /// Numbers of rows, each more than the one before, whose steps are recorded when they first run, and then run by their
    /// recordings; a step of fewer rows runs as one of the next larger. The first takes far longer, so it should be no
    /// request's.
    fn recorded_rows(&self) -> &[usize] {
        &[]
    }
    /// Takes an output back once it has been read, so that its memory can serve the next step.
    fn recycle(&mut self, output: StepOutput) {
        drop(output);
    }
}

/// What can be wrong with a model. (The torch model's loader brings its own error with file, tensor and shapes.)
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The folder cannot be served.
    #[error("{0}")]
    Load(String),
    /// The backend failed in a step.
    #[error("the model failed in a step: {0}")]
    Step(String),
}
