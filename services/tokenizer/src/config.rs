//! The tokenizer's own part of its TOML file.

use std::{num::NonZero, path::PathBuf, thread};

use weft_runtime::config::{FromConfig, Section, any, at_least, between};

/// Everything that the service is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[tokenizer]`
    pub tokenizer: TokenizerConfig,
    /// `[pool]`
    pub pool: PoolConfig,
    /// `[limits]`
    pub limits: Limits,
}

impl FromConfig for Config {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            tokenizer: section.section("tokenizer"),
            pool: section.section("pool"),
            limits: section.section("limits"),
        }
    }
}

/// `[tokenizer]`: what is loaded.
#[derive(Clone, Debug)]
pub struct TokenizerConfig {
    /// A Hugging Face model folder; relative to the working directory.
    pub folder: PathBuf,
    /// What a special token means that stands in a message.
    pub special_tokens_in_content: SpecialTokensInContent,
    /// How much work one rendering of the chat template may do, in minijinja's units: about one for each
    /// instruction and for each 64 bytes produced.
    pub template_fuel: u64,
}

/// What a special token means that stands in a message's content, as opposed to in the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokensInContent {
    /// Text: a user who types `<|im_end|>` does not end the turn. transformers: `sanitize_control_tokens=True`.
    Text,
    /// The token, as transformers does by default.
    Token,
}

/// A template that prints 32 tools three times spends 16,000; one that spins is stopped after some 150 ms.
const TEMPLATE_FUEL: u64 = 2_000_000;

impl FromConfig for TokenizerConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let words = [("text", SpecialTokensInContent::Text), ("token", SpecialTokensInContent::Token)];
        Self {
            folder: section.required("folder", any()),
            special_tokens_in_content: section.choice(
                "special_tokens_in_content",
                SpecialTokensInContent::Text,
                &words,
            ),
            template_fuel: section.value("template_fuel", TEMPLATE_FUEL, at_least(1)),
        }
    }
}

/// `[pool]`: the threads that do CPU work.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// How many.
    pub threads: usize,
    /// Calls that may wait for a thread; one more is answered UNAVAILABLE.
    pub queue: usize,
    /// Texts up to this long are worked on where they arrive, without a thread's wake-up.
    pub inline_bytes: usize,
}

/// A prompt of 4 kB takes a thread about 1 ms, so a full queue of them is a quarter of a second of work.
const QUEUE: usize = 256;
/// A quarter of a millisecond of work (about 4 MB/s). To wake a thread and be woken by it took 0.13 ms more than the same
/// work in place, where both were idle; while all threads are busy in any case, it would take as long as their queue. A
/// reactor's other tasks wait no longer for it than for such a thread, where there are as many threads as cores.
const INLINE_BYTES: usize = 1024;

impl FromConfig for PoolConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            threads: section.value("threads", cores, between(1, 256)),
            queue: section.value("queue", QUEUE, between(1, 65_536)),
            inline_bytes: section.value("inline_bytes", INLINE_BYTES, between(0, 65_536)),
        }
    }
}

/// `[limits]`: what one call may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text in a call: the text to encode, or all texts of a conversation and its tools, and what the chat
    /// template makes of them.
    pub max_text_bytes: usize,
    /// Messages in a conversation.
    pub max_messages: usize,
    /// Tools in a conversation.
    pub max_tools: usize,
    /// Ids in a Decode, or in a DecodeStream from its first message to its last.
    pub max_token_ids: usize,
}

/// Some 250,000 tokens of prose: twice a long context.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// A conversation of this length fits no context that is worth it.
const MAX_MESSAGES: usize = 4096;
/// More tools than a model can tell apart.
const MAX_TOOLS: usize = 512;
/// As many tokens as the longest contexts have.
const MAX_TOKEN_IDS: usize = 1 << 20;

impl FromConfig for Limits {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            max_text_bytes: section.value("max_text_bytes", MAX_TEXT_BYTES, at_least(1)),
            max_messages: section.value("max_messages", MAX_MESSAGES, at_least(1)),
            max_tools: section.value("max_tools", MAX_TOOLS, at_least(1)),
            max_token_ids: section.value("max_token_ids", MAX_TOKEN_IDS, at_least(1)),
        }
    }
}
