//! What the service can be told: `[model]`, `[kv_cache]`, `[scheduler]`, `[limits]`,
//! `[constraint]`, `[adapters]`, `[speculation]`.

mod values;

use std::{path::PathBuf, time::Duration};

use weft_runtime::config::{FromConfig, Section, any, at_least, between, not_empty, positive};
use weft_weights::Format;

use crate::{
    scheduler::{Pacing, Prices, StepLimits},
    speculation::Speculation,
};
pub use values::{ByteSize, Device};
use values::{Names, a_block_size, a_path, some_memory};

/// Tokens in a block: small enough that little of a last block is wasted, large enough that tables stay short.
const BLOCK_SIZE: usize = 16;
/// Memory for the cache: about 23,000 tokens of the default model.
const CACHE_MEMORY: ByteSize = ByteSize(512 << 20);
/// Running at once: beyond it, steps on a CPU grow as fast as throughput does.
const MAX_SEQUENCES: usize = 64;
/// Tokens a step: what a prompt may add to the time between two tokens of others.
const MAX_BATCHED_TOKENS: usize = 512;
/// Waiting: about as many as are answered within a minute.
const MAX_WAITING: usize = 256;
/// Bytes of a constraint: far more than schemas have, and little to compile.
const MAX_CONSTRAINT_BYTES: usize = 64 << 10;
/// Compiled constraints that are kept: an application has a few dozen. Common ones take some 100 KiB each.
const CONSTRAINT_CACHE: usize = 64;
/// Threads for masks: one computes them for 32 sequences in less time than a step of a small model on a CPU takes.
const MASK_THREADS: usize = 1;
/// Compilations that wait: each takes some milliseconds.
const COMPILE_QUEUE: usize = 64;
/// Waiting and compiling together.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(5);
/// Places of one tenant: half, so that the busiest still leaves as much to all others.
const TENANT_SHARE: f64 = 0.5;
/// How much longer than its decodes alone a step may take for each prompt that waits. At 2, a long prompt gets half of
/// the engine's time while others stream.
const STEP_STRETCH: f64 = 2.0;
/// Inputs of one Embed call: the contract's bound.
const MAX_EMBED_INPUTS: usize = 256;

/// Continuations of one prompt: each takes a place.
const MAX_CONTINUATIONS: usize = 16;
/// Adapters at once: beyond it, a step on a CPU reads more bytes of adapters than of the model.
const MAX_ADAPTERS: usize = 32;
/// Rank of an adapter: what is trained in practice is 4 to 64.
const MAX_RANK: usize = 128;
/// Memory for adapters: about a hundred of rank 16 over all projections of the default model.
const ADAPTER_MEMORY: ByteSize = ByteSize(1 << 30);

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[model]`
    pub model: ModelConfig,
    /// `[kv_cache]`
    pub kv_cache: KvCacheConfig,
    /// `[scheduler]`
    pub scheduler: SchedulerConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[constraint]`
    pub constraint: ConstraintConfig,
    /// `[adapters]`
    pub adapters: AdaptersConfig,
    /// `[speculation]`
    pub speculation: Speculation,
}

/// `[model]`: what is served, and where it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `id`: the name under which it is served; the folder's own name where unset.
    pub id: Option<String>,
    /// `folder`: a model folder in Hugging Face's format.
    pub folder: PathBuf,
    /// `dtype`: the type of plain weights in memory.
    pub dtype: Dtype,
    /// `weights`: the format that matrices are quantized to while they are loaded; as the folder holds them where unset.
    pub weights: Option<Format>,
    /// `device`: where it runs.
    pub device: Device,
    /// `threads`: CPU threads of a step, of the model as well as (at most 16) of the choice of tokens; 0 for one per core.
    pub threads: usize,
}

/// `[kv_cache]`: the memory of running sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct KvCacheConfig {
    /// `block_size`: tokens in a block, a power of two.
    pub block_size: usize,
    /// `dtype`: the type of keys and values in memory.
    pub dtype: CacheDtype,
    /// `memory`: bytes for the whole cache.
    pub memory: ByteSize,
    /// `prefix_caching`: whether requests that begin alike share what was computed of their beginning.
    pub prefix_caching: bool,
}

/// `[scheduler]`: how many run, how many wait, how much a step computes.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// `max_sequences`: the most sequences that run at once.
    pub max_sequences: usize,
    /// `max_batched_tokens`: the most tokens that a step computes.
    pub max_batched_tokens: usize,
    /// `max_waiting`: the most requests that wait while the batch is full.
    pub max_waiting: usize,
    /// `prefill_price`: what a prompt's token counts for in fairness between tenants.
    pub prefill_price: u64,
    /// `decode_price`: what a generated token counts for.
    pub decode_price: u64,
    /// `max_idle_tenants`: tenants without requests that are remembered at most.
    pub max_idle_tenants: usize,
    /// `tenant_share`: the part of all places, running and waiting, that one tenant with a name may have.
    pub tenant_share: f64,
    /// `step_stretch`: how much longer than its decodes alone a step may take for each prompt that waits.
    pub step_stretch: f64,
    /// `refuse_hopeless`: refuse requests that cannot have their first token before their deadline.
    pub refuse_hopeless: bool,
}

/// `[limits]`: what a request may ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// `max_prompt_tokens`: the longest prompt; what fits the context where unset.
    pub max_prompt_tokens: Option<usize>,
    /// `max_new_tokens`: the longest output; what fits the context where unset.
    pub max_new_tokens: Option<usize>,
    /// `max_embed_inputs`: the most inputs of one Embed or Score call.
    pub max_embed_inputs: usize,
    /// `max_continuations`: the most continuations of one prompt; 16, or as many as there are places, where unset.
    pub max_continuations: Option<usize>,
}

/// `[constraint]`: what structured output may cost.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstraintConfig {
    /// `max_bytes`: the longest schema, expression or grammar, or list of choices.
    pub max_bytes: usize,
    /// `cache`: compiled ones that are kept.
    pub cache: usize,
    /// `mask_threads`: threads that compute which tokens may come next.
    pub mask_threads: usize,
    /// `compile_threads`: threads that compile.
    pub compile_threads: usize,
    /// `compile_queue`: the most that wait to be compiled.
    pub compile_queue: usize,
    /// `compile_timeout`: the longest that a request waits for that.
    pub compile_timeout: Duration,
}

/// `[adapters]`: which adapters may be loaded, and what they may take.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptersConfig {
    /// `folder`: adapters are folders below it. None can be loaded where it is unset.
    pub folder: Option<PathBuf>,
    /// `max_adapters`: the most that are loaded at once.
    pub max_adapters: usize,
    /// `max_rank`: the highest rank of one.
    pub max_rank: usize,
    /// `memory`: bytes for all of them, those included that are replaced but still in use.
    pub memory: ByteSize,
    /// `preload`: folders below `folder` that are loaded at start, under their own names.
    pub preload: Vec<String>,
}

/// The type of plain weights in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// As the folder says.
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of f32.
    BF16,
    /// IEEE 16-bit floats.
    F16,
}

/// The type of keys and values in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheDtype {
    /// That of plain weights.
    Auto,
    /// 8-bit numbers, with a unit for each position and head.
    Int8,
}

impl LimitsConfig {
    /// The most continuations of one prompt, where `capacity` requests may be held.
    pub fn continuations(&self, capacity: usize) -> usize {
        self.max_continuations.unwrap_or(MAX_CONTINUATIONS.min(capacity))
    }
}

impl SchedulerConfig {
    /// What bounds a step.
    pub fn step_limits(&self) -> StepLimits {
        StepLimits { max_sequences: self.max_sequences, max_batched_tokens: self.max_batched_tokens }
    }

    /// The most requests of one tenant with a name that are held; at least one.
    pub fn share(&self) -> usize {
        ((self.capacity() as f64 * self.tenant_share) as usize).max(1)
    }

    /// What tenants are charged.
    pub fn prices(&self) -> Prices {
        let Self { prefill_price: prefill, decode_price: decode, max_idle_tenants, .. } = *self;
        Prices { prefill, decode, max_idle_tenants }
    }

    /// How steps are bounded by time.
    pub fn pacing(&self) -> Pacing {
        Pacing { step_stretch: Some(self.step_stretch), refuse_hopeless: self.refuse_hopeless }
    }

    /// The most requests that are held, running or waiting.
    pub fn capacity(&self) -> usize {
        self.max_sequences + self.max_waiting
    }
}

impl FromConfig for Config {
    fn from_config(section: &mut Section<'_>) -> Self {
        let config = Self {
            model: section.section("model"),
            kv_cache: section.section("kv_cache"),
            scheduler: section.section("scheduler"),
            limits: section.section("limits"),
            constraint: section.section("constraint"),
            adapters: section.section("adapters"),
            speculation: section.section("speculation"),
        };
        let capacity = config.scheduler.capacity();
        let of_one_call = [
            ("limits.max_embed_inputs", config.limits.max_embed_inputs),
            ("limits.max_continuations", config.limits.max_continuations.unwrap_or(1)),
        ];
        for (name, count) in of_one_call.into_iter().filter(|(_, count)| *count > capacity) {
            let rule =
                format!("must be at most scheduler.max_sequences + scheduler.max_waiting ({capacity})");
            section.problem(name, count, rule);
        }
        config
    }
}

impl FromConfig for ModelConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let dtypes = [("auto", Dtype::Auto), ("f32", Dtype::F32), ("bf16", Dtype::BF16), ("f16", Dtype::F16)];
        let formats = Format::ALL.map(|format| (format.name(), Some(format)));
        let weights: Vec<_> = [("auto", None)].into_iter().chain(formats).collect();
        Self {
            id: section.optional("id", not_empty()),
            folder: section.required("folder", a_path()),
            dtype: section.choice("dtype", Dtype::Auto, &dtypes),
            weights: section.choice("weights", None, &weights),
            device: section.value("device", Device::Auto, any()),
            threads: section.value("threads", 0, between(0, 1024)),
        }
    }
}

impl FromConfig for KvCacheConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            block_size: section.value("block_size", BLOCK_SIZE, a_block_size()),
            dtype: section.choice(
                "dtype",
                CacheDtype::Auto,
                &[("auto", CacheDtype::Auto), ("int8", CacheDtype::Int8)],
            ),
            memory: section.value("memory", CACHE_MEMORY, some_memory()),
            prefix_caching: section.value("prefix_caching", true, any()),
        }
    }
}

impl FromConfig for SchedulerConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let prices = Prices::default();
        let config = Self {
            max_sequences: section.value("max_sequences", MAX_SEQUENCES, between(1, 4096)),
            max_batched_tokens: section.value("max_batched_tokens", MAX_BATCHED_TOKENS, at_least(1)),
            max_waiting: section.value("max_waiting", MAX_WAITING, between(0, 1_000_000)),
            prefill_price: section.value("prefill_price", prices.prefill, between(1, 1000)),
            decode_price: section.value("decode_price", prices.decode, between(1, 1000)),
            max_idle_tenants: section.value(
                "max_idle_tenants",
                prices.max_idle_tenants,
                between(1, 1_000_000),
            ),
            tenant_share: section.value("tenant_share", TENANT_SHARE, between(0.0, 1.0)),
            step_stretch: section.value("step_stretch", STEP_STRETCH, between(1.0, 1000.0)),
            refuse_hopeless: section.value("refuse_hopeless", true, any()),
        };
        let sequences = config.max_sequences;
        if config.max_batched_tokens < sequences {
            let rule = format!(
                "must be at least max_sequences ({sequences}): each running sequence needs one a step"
            );
            section.problem("max_batched_tokens", config.max_batched_tokens, rule);
        }
        // What is left of a running request must never cost more than was thought when it was let in: fairness's bound rests
        // on that.
        let prefill = config.prefill_price;
        if config.decode_price < prefill {
            let rule = format!("must be at least prefill_price ({prefill})");
            section.problem("decode_price", config.decode_price, rule);
        }
        config
    }
}

impl FromConfig for LimitsConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            max_prompt_tokens: section.optional("max_prompt_tokens", at_least(1)),
            max_new_tokens: section.optional("max_new_tokens", at_least(1)),
            max_embed_inputs: section.value(
                "max_embed_inputs",
                MAX_EMBED_INPUTS,
                between(1, MAX_EMBED_INPUTS),
            ),
            max_continuations: section.optional("max_continuations", between(1, 128)),
        }
    }
}

impl FromConfig for ConstraintConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            max_bytes: section.value("max_bytes", MAX_CONSTRAINT_BYTES, between(1, 1 << 20)),
            cache: section.value("cache", CONSTRAINT_CACHE, between(1, 10_000)),
            mask_threads: section.value("mask_threads", MASK_THREADS, between(1, 256)),
            compile_threads: section.value("compile_threads", 1, between(1, 256)),
            compile_queue: section.value("compile_queue", COMPILE_QUEUE, between(1, 100_000)),
            compile_timeout: section.value("compile_timeout", COMPILE_TIMEOUT, positive()),
        }
    }
}

impl FromConfig for AdaptersConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let config = Self {
            folder: section.optional("folder", a_path()),
            max_adapters: section.value("max_adapters", MAX_ADAPTERS, between(1, 1024)),
            max_rank: section.value("max_rank", MAX_RANK, between(1, 4096)),
            memory: section.value("memory", ADAPTER_MEMORY, some_memory()),
            preload: section.value("preload", Names::default(), any()).0,
        };
        let count = config.preload.len();
        if config.folder.is_none() && count > 0 {
            section.problem("preload", format!("{count} names"), "must be empty while `folder` is unset");
        }
        if count > config.max_adapters {
            let rule = format!("must be at most max_adapters ({})", config.max_adapters);
            section.problem("preload", format!("{count} names"), rule);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use weft_runtime::config::parse;

    use super::*;

    fn problems(text: &str) -> String {
        parse::<Config>(text, &[]).expect_err("is not usable").to_string()
    }

    #[test]
    fn a_folder_is_all_that_must_be_said() {
        let config: Config = parse("[model]\nfolder = \"models/m\"\n", &[]).unwrap();
        assert_eq!(config.model.folder, PathBuf::from("models/m"));
        assert_eq!(
            config.kv_cache,
            KvCacheConfig {
                block_size: 16,
                dtype: CacheDtype::Auto,
                memory: ByteSize(1 << 29),
                prefix_caching: true
            }
        );
        assert_eq!(config.scheduler.capacity(), 320);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = problems(
            "[model]\nfolder = \"m\"\ndevice = \"gpu\"\ndtype = \"int8\"\nweights = \"int4\"\n[kv_cache]\nblock_size = 24\ndtype = \"f8\"\nmemory = \"lots\"\n\
             [scheduler]\nmax_batched_tokens = 16\nprefill_price = 3\n[speculation]\nmax_tokens = 33\n",
        );
        for path in [
            "model.device",
            "model.dtype",
            "model.weights",
            "kv_cache.block_size",
            "kv_cache.dtype",
            "kv_cache.memory",
            "scheduler.max_batched_tokens",
            "scheduler.decode_price",
            "speculation.max_tokens",
        ] {
            assert!(text.contains(path), "{path} is missing in:\n{text}");
        }
    }

    #[test]
    fn more_embed_inputs_than_there_are_places_are_refused() {
        let text = problems("[model]\nfolder = \"m\"\n[scheduler]\nmax_sequences = 8\nmax_waiting = 8\n");
        assert!(text.contains("max_embed_inputs"), "{text}");
    }

    #[test]
    fn the_shipped_configuration_is_usable() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config/inference.toml");
        let text = std::fs::read_to_string(file).unwrap();
        let config: Config = parse(&text, &[]).unwrap();
        assert_eq!(config.model.folder, PathBuf::from("models/smollm2-135m-instruct"));
    }
}
