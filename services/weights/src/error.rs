//! What can be wrong with a folder: always the file, and in it the tensor or the key.

use std::{io, path::PathBuf};

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file or folder is missing, or cannot be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A JSON file does not parse, or a key has a value of the wrong kind.
    #[error("{}: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// A safetensors file is damaged.
    #[error("{}: not a usable safetensors file: {reason}", file.display())]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names a file that is not there.
    #[error("{}: names the shard {shard}, which is not in the folder", index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The file it names.
        shard: String,
    },
    /// No file of the folder holds the tensor.
    #[error("{}: tensor {tensor} is missing", file.display())]
    MissingTensor {
        /// The weights file, or the index of a sharded model.
        file: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor has another shape than it must have.
    #[error("{}: tensor {tensor} has shape {found:?}, expected {expected:?}", file.display())]
    Shape {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The shape it must have.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in another type than it must have.
    #[error("{}: tensor {tensor} is stored as {found}, expected {expected}", file.display())]
    Dtype {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// What is read.
        expected: String,
        /// The type in the file.
        found: String,
    },
    /// The manifest of a quantized folder says what cannot be.
    #[error("{}: {key} = {value}: {rule}", file.display())]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// The key, dotted.
        key: String,
        /// The value found.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// A tensor's values have no form in the format.
    #[error("{}: tensor {tensor} has no form in fewer bits: {reason}", file.display())]
    Unfit {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// What stands in the way.
        reason: super::Unfit,
    },
    /// The folder is quantized already: its weights are not what they were made from.
    #[error("{}: its weights are {format} already; quantize the folder they were made from", folder.display())]
    Quantized {
        /// The folder.
        folder: PathBuf,
        /// The format found.
        format: super::Format,
    },
    /// No tensor of the folder is one that gets fewer bits.
    #[error("{}: no tensor of it is a projection, an embedding or a head of the Llama family", folder.display())]
    NothingToDo {
        /// The folder.
        folder: PathBuf,
    },
    /// The target is there already.
    #[error("{} exists already", folder.display())]
    Exists {
        /// The target.
        folder: PathBuf,
    },
    /// The target cannot be a folder of its own.
    #[error("{}: cannot be the target: {reason}", folder.display())]
    Target {
        /// The target.
        folder: PathBuf,
        /// Why.
        reason: &'static str,
    },
}
