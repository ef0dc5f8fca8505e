//! What transformers said: the files of `tests/golden`.

use std::path::PathBuf;

use serde::{Deserialize, de::DeserializeOwned};

/// `smollm2_greedy.json`.
#[derive(Debug, Deserialize)]
pub struct Greedy {
    /// One conversation each.
    pub cases: Vec<GreedyCase>,
}

/// A conversation and how SmolLM2 goes on, greedily, in f32, where an end token is not allowed.
#[derive(Clone, Debug, Deserialize)]
pub struct GreedyCase {
    /// What was asked.
    pub messages: Vec<Message>,
    /// The prompt in ids.
    pub input_ids: Vec<u32>,
    /// What follows.
    pub greedy_ids: Vec<u32>,
    /// The same as text.
    pub text: String,
}

/// One turn.
#[derive(Clone, Debug, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// The golden answers of SmolLM2.
///
/// # Panics
/// The file is part of the repository.
pub fn greedy() -> Vec<GreedyCase> {
    read::<Greedy>("smollm2_greedy.json").cases
}

/// A golden file.
///
/// # Panics
/// The file is part of the repository.
pub fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = repository().join("tests/golden").join(name);
    let text = std::fs::read_to_string(path).expect("is part of the repository");
    serde_json::from_str(&text).expect("has this form")
}

/// The repository's root.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A model folder that set-up makes.
///
/// # Panics
/// It is not there; the message says how to get it.
pub fn model_folder(name: &str) -> PathBuf {
    let folder = repository().join("models").join(name);
    assert!(folder.join("config.json").is_file(), "models/{name} is missing: run `make model`");
    folder
}
