//! Why a model folder cannot be served: always the file, and in it the key or the tensor.

use std::path::PathBuf;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A JSON file does not parse, or a key has a value of the wrong kind.
    #[error("{}: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// A key without a sound default is missing.
    #[error("{}: {key} is missing", file.display())]
    MissingKey {
        /// The file.
        file: PathBuf,
        /// The key, dotted.
        key: &'static str,
    },
    /// A key holds a value that makes no sense.
    #[error("{}: {key} = {value}: {rule}", file.display())]
    BadValue {
        /// The file.
        file: PathBuf,
        /// The key, dotted.
        key: &'static str,
        /// The value found.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// The folder asks for something that this service does not compute.
    #[error("{}: {key} = {value} is not supported ({supported})", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The key, dotted.
        key: &'static str,
        /// The value found.
        value: String,
        /// What is supported.
        supported: &'static str,
    },
    /// The folder sets something that this service does not know.
    #[error("{}: {key} = {value} is not supported", file.display())]
    UnsupportedSetting {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The value found.
        value: String,
    },
    /// A tensor holds infinities, or what is not a number.
    #[error("{}: tensor {tensor} holds values that are not finite numbers", file.display())]
    NotFinite {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
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
    /// A tensor has another shape than the config says.
    #[error("{}: tensor {tensor} has shape {found:?}, expected {expected:?}", file.display())]
    Shape {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The shape that config.json leads to.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor {tensor} is stored as {found}, expected F32, BF16 or F16", file.display())]
    Dtype {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A tensor that the architecture does not have: the model would not be computed as it was trained.
    #[error("{}: tensor {tensor} has no place in {architecture}", file.display())]
    UnknownTensor {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The architecture of config.json.
        architecture: String,
    },
    /// The device that was asked for cannot be used.
    #[error("device {device} is not available: {reason}")]
    Device {
        /// As configured.
        device: String,
        /// What stands in the way.
        reason: String,
    },
    /// There is no memory for the weights.
    #[error("no memory for {bytes} bytes of weights")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Weights of few bits that no kernel takes.
    #[error("weights cannot be used: {reason}")]
    Weights {
        /// What is wrong with them.
        reason: String,
    },
    /// libtorch refused an operation while the weights were prepared.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}
