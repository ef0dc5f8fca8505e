//! Why a model folder cannot be served: always the file, and in it the key or the tensor.

use std::path::PathBuf;

use weft_weights::{Format, WeightsError};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files of weights.
    #[error(transparent)]
    Files(#[from] WeightsError),
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
    /// The folder is quantized, but not to the format that the configuration asks for.
    #[error(
        "{}: the weights are {found}, not {asked}: quantize the folder they were made from, or set model.weights = \"auto\"",
        file.display()
    )]
    OtherFormat {
        /// The manifest.
        file: PathBuf,
        /// The format of the folder.
        found: Format,
        /// The format that was asked for.
        asked: Format,
    },
    /// Matrices that are computed as one are in different formats.
    #[error("{}: tensor {tensor} is not in the format of its layer's others of this kind", file.display())]
    MixedFormats {
        /// The weights file.
        file: PathBuf,
        /// The tensor that is unlike those before it.
        tensor: String,
    },
    /// Nobody computes with weights of this format on this device.
    #[error(
        "{format} weights are not computed on {device} without vector instructions that Weft has kernels for; int8 is"
    )]
    NoKernel {
        /// The format.
        format: Format,
        /// The device.
        device: String,
    },
    /// The device that was asked for cannot be used.
    #[error("device {device} is not available: {reason}")]
    Device {
        /// As configured.
        device: String,
        /// What stands in the way.
        reason: String,
    },
    /// Only our kernels for CPUs keep keys and values in int8.
    #[error(
        "kv_cache.dtype is int8, which only CPUs with AVX2 or AVX-512 have (this is {device}): it must be auto"
    )]
    Int8Cache {
        /// Where it would have run.
        device: String,
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
